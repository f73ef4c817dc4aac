"""Perplexity against the missed share of the MLPs' bytes: the frontier of each method, in tables and a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.quantities import format_bandwidth, format_bytes, number, percent, share
from dipc.report.chart import Axis, Chart, Line, Mark, Rule, plain
from dipc.report.study_view import Setting, View, said
from dipc.report.table import table
from dipc.studies.study.frontier import frontier, missed_share, perplexity_of

if TYPE_CHECKING:
    from dipc.studies.study.result import Point, Study

_COLUMNS = ("method", ">density", ">gamma", "policy", ">missed", ">perplexity", ">over dense")
_JOINED = (
    "Bytes that a token reads past the cache, of all bytes of the MLPs. A line joins the points that no other of the "
    "method beats in both; the others are faint."
)


def frontier_tables(found: Study) -> Iterator[RenderableType]:
    """A table for each DRAM, if any method has a frontier there: flash speed changes no byte."""
    view = View(found)
    for dram in dict.fromkeys(p.dram_bytes for p in found.points):
        at = next((s for s in view.settings if s.dram == dram), None)
        rows = [_cells(p, found.dense_perplexity) for points in frontiers(view, at).values() for p in points]
        if rows:
            yield table(f"least perplexity by bytes missed, {format_bytes(dram)} of DRAM", _COLUMNS, rows)


def frontiers(view: View, at: Setting | None) -> dict[str, tuple[Point, ...]]:
    """The frontier of each method that has two points or more on it, at a setting."""
    found = {method: frontier(p for p in view.at(at, method) if view.on_axis(p)) for method in view.methods}
    return {method: points for method, points in found.items() if len(points) > 1}


def frontier_chart(view: View) -> Chart | None:
    """Perplexity over missed bytes, a line for each method."""
    base = view.base
    found = frontiers(view, base)
    if base is None or not found:
        return None
    lines = [_line(view, base, method, points) for method, points in found.items()]
    dense = view.study.dense_perplexity
    rules = () if dense is None else (Rule("y", dense, "dense"),)
    flash = "" if base.flash is None else f", flash at {format_bandwidth(base.flash)}"
    title = f"Perplexity by bytes missed, {format_bytes(base.dram)} of DRAM{flash}"
    x = Axis("missed of the MLPs' bytes", percent, from_zero=True)
    return Chart("frontier", title, _JOINED, x, Axis("perplexity", plain), tuple(lines), rules)


def _line(view: View, at: Setting, method: str, points: Sequence[Point]) -> Line:
    loose = [p for p in view.at(at, method) if view.on_axis(p) and p not in points]
    return Line(method, view.style(method), tuple(map(_mark, points)), tuple(map(_mark, loose)))


def _mark(point: Point) -> Mark:
    return Mark(missed_share(point), perplexity_of(point), said(point))


def _cells(point: Point, dense: float | None) -> list[str]:
    perplexity = perplexity_of(point)
    return [
        point.method,
        share(point.density_measured),
        share(point.gamma),
        point.policy,
        share(missed_share(point)),
        number(perplexity),
        "" if dense is None else number(perplexity - dense),
    ]
