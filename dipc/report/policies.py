"""Eviction policies, as their docstrings describe them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.cache.policy import Policy


def policies_dict(kinds: Iterable[tuple[str, type[Policy]]]) -> JsonObject:
    """All policies."""
    return document("policies", policies=[_facts(name, kind) for name, kind in kinds])


def policies_table(kinds: Iterable[tuple[str, type[Policy]]]) -> list[RenderableType]:
    """A row per policy; in closed loop, a cache-aware method follows it."""
    rows = [(name, kind.summary(), "yes" if kind.online else "no") for name, kind in kinds]
    return stack(table("", ("policy", "what it does", "closed\nloop"), rows))


def policy_dict(name: str, kind: type[Policy]) -> JsonObject:
    """Return one policy, with its whole description."""
    return document("policy", **_facts(name, kind), description=inspect.cleandoc(kind.__doc__ or ""))


def policy_tables(name: str, kind: type[Policy]) -> list[RenderableType]:
    """Return the same to be read."""
    found = _facts(name, kind)
    rows = [
        ("closed loop", "yes" if found["closed_loop"] else "no: it decides by what later tokens touch"),
        ("ranks by popularity", "yes: counted on the warm-up, or calibrated" if found["needs_calibration"] else "no"),
    ]
    return stack(inspect.cleandoc(kind.__doc__ or ""), facts("", rows))


def _facts(name: str, kind: type[Policy]) -> JsonObject:
    return {"name": name, "summary": kind.summary(), "closed_loop": kind.online, "needs_calibration": not kind.counts}
