"""Tables of a study: its points, the perplexities aimed at, the device's figures and what all hangs on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dipc.memory.timeline import TRACKS, Timeline
from dipc.quantities import NONE, format_bandwidth, format_bytes, number, percent, share
from dipc.report.html.markup import Markup, element, joined
from dipc.report.study_view import increase_text

if TYPE_CHECKING:
    from dipc.studies.study.result import Point, Study, Target

_BOUND = {"flash": "flash", "dram": "DRAM"}


class TableCell(NamedTuple):
    """A cell of a table: what it shows, and the value it is sorted by."""

    shown: str
    value: float | str | None = None


class Column(NamedTuple):
    """A heading; figures are set right."""

    title: str
    figures: bool = True


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[TableCell]], *, sortable: bool = False
) -> Markup:
    """A table that scrolls inside itself; the first cell of a row is its heading."""
    heads = [element("th", c.title, scope="col", class_="figure" if c.figures else None) for c in columns]
    body = [
        element("tr", *(_cell(cell, c, i == 0) for i, (cell, c) in enumerate(zip(row, columns, strict=True))))
        for row in rows
    ]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_="sortable" if sortable else None,
    )
    return element("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(cell: TableCell, column: Column, first: bool) -> Markup:
    kind = "figure" if column.figures else None
    value = None if cell.value is None else str(cell.value)
    if first:
        return element("th", cell.shown, scope="row", class_=kind, data_value=value)
    return element("td", cell.shown, class_=kind, data_value=value)


def points_table(study: Study) -> Markup:
    """Every point; columns that no point has a value for are left out."""
    shown = [
        (column, cells)
        for column, cells in ((column, [make(p) for p in study.points]) for column, make in _POINT_COLUMNS)
        if column.title in _ALWAYS or any(cell.shown not in (NONE, "") for cell in cells)
    ]
    rows = zip(*(cells for _, cells in shown), strict=True)
    return table("All points, simulated", [column for column, _ in shown], rows, sortable=True)


def _figure(value: float | None, written: str) -> TableCell:
    return TableCell(NONE) if value is None else TableCell(written, value)


def _number(value: float | None, digits: int = 4) -> TableCell:
    return _figure(value, number(value, digits))


def _bytes(value: float | None) -> TableCell:
    return TableCell(NONE) if value is None else TableCell(format_bytes(value), value)


def _flash(row: Point | Target) -> TableCell:
    speed = row.flash_bytes_per_s
    return TableCell("device's") if speed is None else TableCell(format_bandwidth(speed), speed)


def _percent(value: float | None) -> TableCell:
    return _figure(value, percent(value))


def _cost(point: Point, name: str) -> float | None:
    return None if point.cost is None else getattr(point.cost, name)


def _short(value: float | None) -> TableCell:
    return _figure(value, share(value))


_ALWAYS = ("method", "tok/s", "x dense")
_POINT_COLUMNS: tuple[tuple[Column, Callable[[Point], TableCell]], ...] = (
    (Column("method", False), lambda p: TableCell(p.method)),
    (Column("density"), lambda p: _short(p.density)),
    (Column("measured"), lambda p: _short(p.density_measured)),
    (Column("gamma"), lambda p: _short(p.gamma)),
    (Column("policy", False), lambda p: TableCell(p.policy)),
    (Column("DRAM"), lambda p: _bytes(p.dram_bytes)),
    (Column("flash"), _flash),
    (Column("tok/s"), lambda p: _number(_cost(p, "tokens_per_second"))),
    (Column("x dense"), lambda p: _number(_cost(p, "speedup"), 3)),
    (Column("perplexity"), lambda p: _number(p.perplexity)),
    (Column("KL, nats"), lambda p: _number(p.kl, 3)),
    (Column("hit rate"), lambda p: _percent(_cost(p, "hit_rate"))),
    (Column("flash/token"), lambda p: _bytes(_cost(p, "flash_bytes_per_token"))),
    (Column("DRAM/token"), lambda p: _bytes(_cost(p, "dram_bytes_per_token"))),
    (Column("ms/token"), lambda p: _number(_cost(p, "ms_per_token"))),
    (Column("J/token"), lambda p: _number(_cost(p, "energy_j_per_token"), 3)),
    (Column("bound by", False), lambda p: TableCell(NONE if p.cost is None else _BOUND[p.cost.bound])),
    (Column("activity", False), lambda p: TableCell(p.source or "")),
    (Column("seed"), lambda p: _number(p.seed)),
    (Column("pipeline", False), lambda p: TableCell(p.pipeline)),
    (Column("missing because", False), lambda p: TableCell(p.reason or "")),
)


def targets_table(study: Study) -> Markup:
    """The highest throughput at each perplexity aimed at; what no run measured says so, and what it lies between."""
    points = {point.id: point for point in study.points}
    rows = [
        [
            *(make(t) for _, make in _TARGET_COLUMNS),
            TableCell(_rests_on(t, [points[n] for n in t.neighbours if n in points])),
        ]
        for t in study.targets
    ]
    columns = [*(column for column, _ in _TARGET_COLUMNS), Column("rests on", False)]
    return table("The highest throughput at each perplexity, simulated", columns, rows, sortable=True)


_TARGET_COLUMNS: tuple[tuple[Column, Callable[[Target], TableCell]], ...] = (
    (Column("method", False), lambda t: TableCell(t.method)),
    (Column("allowed"), lambda t: TableCell(increase_text(t.max_ppl_increase), t.max_ppl_increase)),
    (Column("DRAM"), lambda t: _bytes(t.dram_bytes)),
    (Column("flash"), _flash),
    (Column("tok/s"), lambda t: _number(t.tokens_per_second)),
    (Column("x dense"), lambda t: _number(t.speedup, 3)),
    (Column("known by", False), lambda t: TableCell(_known_by(t))),
    (Column("perplexity"), lambda t: _number(t.perplexity)),
    (Column("density"), lambda t: _short(t.density)),
    (Column("gamma"), lambda t: _short(t.gamma)),
    (Column("policy", False), lambda t: TableCell(t.policy)),
)


def _known_by(target: Target) -> Markup:
    if target.tokens_per_second is None:
        return _chip("not reached", "missing")
    return _chip("interpolated", "interpolated") if target.interpolated else _chip("measured", "measured")


def _rests_on(target: Target, neighbours: Sequence[Point]) -> str:
    """The measured points that a target stands on or between, and what else is to be said of it."""
    places = [
        f"{number(p.throughput)} tok/s at perplexity {number(p.perplexity)} (density {share(p.density)})"
        for p in neighbours
    ]
    return "; ".join([*([" and ".join(places)] if places else []), *([target.reason] if target.reason else [])])


def assumptions_table(study: Study) -> Markup:
    """Each figure of the device, what kind of evidence there is for it, and where it is from."""
    columns = [Column("figure", False), Column("value"), Column("kind", False), Column("source", False)]
    rows = [
        (
            TableCell(a["key"]),
            TableCell(a["value"]),
            TableCell(_chip(a["kind"], a["kind"])),
            TableCell(linked(a["source"])),
        )
        for a in study.device.get("assumptions", ())
    ]
    return table("The device's figures and their sources", columns, rows)


def layers_table(names: Sequence[str], points: Sequence[Point]) -> Markup:
    """The figures of the charts by layer."""
    heads = ("hit rate", "flash", "DRAM")
    columns = [Column("layer"), *(Column(f"{name}: {head}") for name in names for head in heads)]
    found = [{layer.layer: layer for layer in (p.cost.layers if p.cost else ())} for p in points]
    rows = []
    for index in sorted({index for layers in found for index in layers}):
        cells = [TableCell(str(index))]
        for layers in found:
            layer = layers.get(index)
            cells += (
                [TableCell(NONE)] * 3
                if layer is None
                else [
                    TableCell(percent(layer.hit_rate)),
                    _bytes(layer.flash_bytes_per_token),
                    _bytes(layer.dram_bytes_per_token),
                ]
            )
        rows.append(cells)
    return table("By layer, per token", columns, rows)


def reads_table(timelines: Iterable[tuple[str, Timeline]]) -> Markup:
    """Return what one token of each program reads, and how long it takes."""
    columns = [Column("program", False), *map(Column, ("token", "ms", "from flash", "from DRAM"))]
    rows = []
    for name, timeline in timelines:
        sizes = {track: sum(e.bytes for e in timeline.events if e.track == track) for track in TRACKS}
        cells = [
            _number(timeline.token),
            _number(1000 * timeline.latency_s),
            *(_bytes(sizes[track]) for track in TRACKS),
        ]
        rows.append([TableCell(name), *cells])
    return table("Reads of one counted token, simulated", columns, rows)


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and values."""
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in rows)
    return element("dl", *pairs, class_="facts")


def linked(text: str) -> Markup:
    """A text with its addresses as links."""
    parts = re.split(r"(https?://[^\s<>\"']*[^\s<>\"'.,;)])", text)
    return joined(*(element("a", p, href=p, rel="noreferrer") if i % 2 else p for i, p in enumerate(parts)))


def _chip(text: str, kind: str) -> Markup:
    return element("span", text, class_=f"chip {kind}")
