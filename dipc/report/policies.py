"""Eviction policies, as their docstrings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dipc.documents import document

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.cache.policy import Policy


def policies_dict(kinds: Iterable[tuple[str, type[Policy]]]) -> dict[str, Any]:
    """All policies."""
    return document("policies", policies=[_facts(name, kind) for name, kind in kinds])


def policies_table(kinds: Iterable[tuple[str, type[Policy]]]) -> list[RenderableType]:
    """A row per policy; in closed loop, a cache-aware method follows it."""
    from dipc.report.table import stack, table

    rows = [(name, kind.summary(), "yes" if kind.online else "no") for name, kind in kinds]
    return stack(table("", ("policy", "what it does", "closed\nloop"), rows))


def _facts(name: str, kind: type[Policy]) -> dict[str, Any]:
    return {"name": name, "summary": kind.summary(), "closed_loop": kind.online, "needs_calibration": not kind.counts}
