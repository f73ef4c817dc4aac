"""Eviction policies, as their docstrings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dipc.report.figures import document

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.cache.policy import Policy


def policies_dict(kinds: Iterable[tuple[str, type[Policy]]]) -> dict[str, Any]:
    """All policies."""
    return document("policies", policies=[{"name": name, "summary": kind.summary()} for name, kind in kinds])


def policies_table(kinds: Iterable[tuple[str, type[Policy]]]) -> list[RenderableType]:
    """A row per policy."""
    from dipc.report.table import stack, table

    return stack(table("", ("policy", "what it does"), [(name, kind.summary()) for name, kind in kinds]))
