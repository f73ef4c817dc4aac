"""Findings: what the figures of a comparison or a study show, as data. `dipc.report` words them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that figures show. Each kind is a subclass whose fields are the figures and names that it is about."""


@dataclass(frozen=True)
class Stated(Finding):
    """A finding that a file holds in words."""

    text: str
