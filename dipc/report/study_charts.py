"""The charts of a study: which lines each has. `dipc.report.html` and `dipc.report.study_plot` draw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dipc.quantities import format_bandwidth, format_bytes, number, share
from dipc.report.chart import DENSE, SPEED, Axis, Chart, Line, Mark, plain
from dipc.report.study_frontier import frontier_chart
from dipc.report.study_tradeoffs import gamma_charts, pareto_chart, policy_charts
from dipc.report.study_view import Setting, View, distinct, increase_text, knows_future, name, said, setting

if TYPE_CHECKING:
    from dipc.studies.study.result import Layer, Point, Study, Target

_HIGHEST = "The highest throughput at that perplexity; the table says which are interpolated."


@dataclass(frozen=True)
class StudyCharts:
    """All charts of a study.

    Attributes:
        pareto: throughput over perplexity, or over density where no perplexity is known.
        others: the same at the other settings of the device.
        panels: perplexity over bytes missed, and over DRAM, flash, gamma and policy, where the study has several.
        layers: hit rate and traffic of each layer.
    """

    pareto: Chart | None
    others: tuple[Chart, ...]
    panels: tuple[Chart, ...]
    layers: tuple[Chart, ...]

    @property
    def all(self) -> tuple[Chart, ...]:
        """In the order of the page."""
        return (*([self.pareto] if self.pareto else []), *self.others, *self.panels, *self.layers)


def study_charts(study: Study) -> StudyCharts:
    """The charts that a study's points and targets allow."""
    view = View(study)
    pareto = None if view.base is None else pareto_chart(view, view.base, "pareto")
    rest = [s for s in view.settings if s != view.base]
    others = [pareto_chart(view, s, f"pareto-{i}") for i, s in enumerate(rest, 1)]
    bytes_missed = frontier_chart(view)
    panels = (
        *([bytes_missed] if bytes_missed else []),
        *_over(view, "dram"),
        *_over(view, "flash"),
        *gamma_charts(view),
        *policy_charts(view),
    )
    return StudyCharts(pareto, tuple(c for c in others if c is not None), panels, tuple(_layers(view)))


def _over(view: View, what: Literal["dram", "flash"]) -> Iterator[Chart]:
    """Throughput over one figure of the device, at each perplexity that was aimed at (Tables 6 and 7)."""
    base = view.base
    if base is None:
        return
    along = [s for s in view.settings if (s.flash == base.flash if what == "dram" else s.dram == base.dram)]
    along = [s for s in along if getattr(s, what) is not None]
    if len(along) < 2:
        return
    axis = _device_axis(what, [getattr(s, what) for s in along])
    kept = f"flash at {format_bandwidth(base.flash)}" if what == "dram" and base.flash else ""
    fixed = kept if what == "dram" else f"{format_bytes(base.dram)} of DRAM"
    dense = Line("dense", DENSE, tuple(_at(p, what) for s in along if (p := view.dense(s)) is not None))
    for title, caption, lines in _levels(view, along, what):
        shown = tuple(line for line in (dense, *lines) if line.marks)
        note = " ".join(part for part in (caption, f"With {fixed}." if fixed else "") if part)
        y = Axis(SPEED, plain, from_zero=what == "dram", log=what == "flash")
        file = "-".join([what, *title.split()[-1:]]).replace("+", "")
        yield Chart(file, f"By {'DRAM' if what == 'dram' else 'flash'}{title}", note, axis, y, shown)


def _levels(view: View, along: Sequence[Setting], what: str) -> Iterator[tuple[str, str, list[Line]]]:
    """A title, a caption and the lines for each perplexity aimed at, or for the usual density."""
    reached = [t for t in view.study.targets if t.tokens_per_second is not None and setting(t) in along]
    for increase in distinct(t.max_ppl_increase for t in reached):
        here = [t for t in reached if t.max_ppl_increase == increase and not knows_future(t.policy)]
        lines = []
        for method in view.methods:
            own = ([t for t in here if setting(t) == s and t.method == method] for s in along)
            best = [max(targets, key=_reach) for targets in own if targets]
            marks = (Mark(getattr(setting(t), what), _reach(t), _target_text(t)) for t in best)
            lines.append(Line(method, view.style(method), tuple(marks)))
        yield f", perplexity at most {increase_text(increase)}", _HIGHEST, lines
    if reached:
        return
    lines = []
    for method in view.methods:
        fastest = [p for s in along if (p := view.usual(method, s)) is not None]
        lines.append(Line(method, view.style(method), tuple(_at(p, what) for p in fastest)))
    yield "" if view.usual_density is None else f" at density {share(view.usual_density)}", "", lines


def _layers(view: View) -> Iterator[Chart]:
    """Hit rate and traffic by layer."""
    points = [(p, p.cost.layers) for p in view.featured if p.cost is not None and p.cost.layers]
    methods = [p.method for p, _ in points]
    for file, title, unit, written, value in _BY_LAYER:
        lines = []
        for place, (point, layers) in enumerate(points):
            # Two points of one method need two colours.
            style = view.style(point.method) if methods.count(point.method) == 1 else len(view.methods) + place
            label = name(point)
            figures = [(layer.layer, value(layer)) for layer in layers]
            marks = tuple(Mark(x, y, f"{label}\nlayer {x}: {written(y)}") for x, y in figures)
            lines.append(Line(label, style, marks))
        if lines:
            y = Axis(unit, written, from_zero=True)
            yield Chart(f"layers-{file}", title, "", Axis("layer", plain), y, tuple(lines))


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


_BY_LAYER: tuple[tuple[str, str, str, Callable[[float], str], Callable[[Layer], float]], ...] = (
    ("hit-rate", "Hit rate of the weight cache", "hits per access", _percent, lambda layer: layer.hit_rate),
    ("flash-bytes", "Read from flash", "bytes per token", format_bytes, lambda layer: layer.flash_bytes_per_token),
    ("dram-bytes", "Read from DRAM", "bytes per token", format_bytes, lambda layer: layer.dram_bytes_per_token),
)


def _at(point: Point, what: str) -> Mark:
    return Mark(getattr(setting(point), what), point.throughput, said(point))


def _target_text(target: Target) -> str:
    how = "interpolated between two measured points" if target.interpolated else "measured"
    gamma = "" if target.gamma is None else f", gamma {target.gamma:g}"
    lines = [
        f"{target.method}{gamma}, policy {target.policy}",
        f"{number(target.tokens_per_second)} tok/s, {number(target.speedup, 3)} x dense",
        f"perplexity {number(target.perplexity)}, density {share(target.density)}",
        how,
        setting(target).text,
    ]
    return "\n".join(lines)


def _device_axis(what: str, values: Sequence[float]) -> Axis:
    if what == "dram":
        return Axis("DRAM for the model", format_bytes, ticks=tuple(values))
    return Axis("flash bandwidth", format_bandwidth, log=True, ticks=tuple(values))


def _reach(target: Target) -> float:
    return target.tokens_per_second or 0.0
