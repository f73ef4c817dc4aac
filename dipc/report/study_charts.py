"""The charts of a study: which lines each has. `dipc.html` and `dipc.report.study_plot` draw them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dipc.quantities import format_bandwidth, format_bytes
from dipc.report.chart import DENSE, Axis, Chart, Line, Mark, Rule
from dipc.report.figures import number, share
from dipc.report.study_view import AWARE, ORACLE, Setting, View, distinct, front, name, said, setting

if TYPE_CHECKING:
    from dipc.study.result import Layer, Point, Study, Target

_LOG_FROM = 2.5
"""Perplexities whose greatest is above so many times their least are on a logarithmic axis."""
_SPEED = "tokens per second"
_JOINED = "A line joins the points that no other of its kind beats in both; the others are faint."
_FASTEST = "A line joins the fastest of its kind at each density; the others are faint. What it costs is not known."


@dataclass(frozen=True)
class StudyCharts:
    """All charts of a study.

    Attributes:
        pareto: throughput over perplexity, or over density where no perplexity is known.
        others: the same at the other settings of the device.
        panels: over DRAM, flash, gamma and policy, where the study has several.
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
    pareto = None if view.base is None else _pareto(view, view.base, "pareto")
    rest = [s for s in view.settings if s != view.base]
    others = [_pareto(view, s, f"pareto-{i}") for i, s in enumerate(rest, 1)]
    panels = (*_over(view, "dram"), *_over(view, "flash"), *_gammas(view), *_policies(view))
    return StudyCharts(pareto, tuple(c for c in others if c is not None), panels, tuple(_layers(view)))


def _pareto(view: View, at: Setting, file: str) -> Chart | None:
    """Throughput over perplexity, a line per method (Figure 8)."""
    groups = {method: view.at(at, method) for method in view.methods}
    lines = [_line(view, method, view.style(method), points) for method, points in groups.items()]
    dense = view.dense(at)
    if dense is not None and (not view.has_perplexity or dense.perplexity is not None):
        lines.insert(0, Line("dense", DENSE, (_mark(view, dense),)))
    return _traded(view, file, f"With {at.text}", "", lines, groups.values(), at)


def _gammas(view: View) -> Iterator[Chart]:
    """A line per gamma beside the method that has none (Figure 10, right)."""
    for method in view.methods:
        points = view.at(view.base, method)
        gammas = sorted({p.gamma for p in points if p.gamma is not None})
        if len(gammas) < 2:
            continue
        groups = {f"gamma {gamma:g}": [p for p in points if p.gamma == gamma] for gamma in gammas}
        plain = method.removesuffix(AWARE)
        if plain != method and plain in view.methods:
            groups[f"{plain}, not cache-aware"] = list(view.at(view.base, plain))
        lines = [_line(view, label, i, found) for i, (label, found) in enumerate(groups.items())]
        caption = f"{method} by gamma, the weight of what is not cached."
        chart = _traded(view, f"gamma-{method}", f"By gamma: {method}", caption, lines, groups.values(), view.base)
        yield from [chart] if chart else []


def _policies(view: View) -> Iterator[Chart]:
    """A line per eviction policy of one method, beside its cache-aware form (Figure 11)."""
    at = [p for p in view.priced if setting(p) == view.base and p.method != "dense"]
    counts = {method: distinct(p.policy for p in at if p.method == method) for method in view.methods}
    method = max(counts, key=lambda m: len(counts[m]), default="")
    if len(counts.get(method, ())) < 2:
        return
    groups = {
        f"{method}, {policy}": [p for p in at if (p.method, p.policy) == (method, policy)] for policy in counts[method]
    }
    aware = method + AWARE
    if aware in view.methods:
        groups[aware] = list(view.at(view.base, aware))
    lines = [
        _line(view, label, i, found, dashed=label.endswith(ORACLE)) for i, (label, found) in enumerate(groups.items())
    ]
    known = f" {ORACLE} (dashed) knows the future: no device can." if ORACLE in counts[method] else ""
    caption = f"{method} by eviction policy.{known}"
    chart = _traded(view, "policy", "By eviction policy", caption, lines, groups.values(), view.base)
    yield from [chart] if chart else []


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
        y = Axis(_SPEED, _plain, from_zero=what == "dram", log=what == "flash")
        file = f"{what}-{title.split()[-1].replace('+', '')}"
        yield Chart(file, f"By {'DRAM' if what == 'dram' else 'flash'}{title}", note, axis, y, shown)


def _levels(view: View, along: Sequence[Setting], what: str) -> Iterator[tuple[str, str, list[Line]]]:
    """A title, a caption and the lines for each perplexity aimed at, or for the usual density."""
    reached = [t for t in view.study.targets if t.tokens_per_second is not None and setting(t) in along]
    for increase in distinct(t.max_ppl_increase for t in reached):
        here = [t for t in reached if t.max_ppl_increase == increase and t.policy != ORACLE]
        lines = []
        for method in (m for m in view.methods if m != "dense"):
            best = [
                max((t for t in here if setting(t) == s and t.method == method), key=_reach, default=None)
                for s in along
            ]
            marks = tuple(Mark(getattr(setting(t), what), _reach(t), _target_text(t)) for t in best if t is not None)
            lines.append(Line(method, view.style(method), marks))
        yield f", perplexity at most {increase_text(increase)}", "The highest throughput at that perplexity.", lines
    if reached or view.usual_density is None:
        return
    lines = []
    for method in view.methods:
        points = [
            max(
                (p for p in view.at(s, method) if p.density == view.usual_density),
                key=lambda p: p.throughput,
                default=None,
            )
            for s in along
        ]
        lines.append(Line(method, view.style(method), tuple(_at(p, what) for p in points if p is not None)))
    yield f" at density {share(view.usual_density)}", "", lines


def _layers(view: View) -> Iterator[Chart]:
    """Hit rate and traffic by layer."""
    points = [(p, p.cost.layers) for p in view.featured if p.cost is not None and p.cost.layers]
    methods = [p.method for p, _ in points]
    for file, title, unit, written, value in _BY_LAYER:
        lines = []
        for place, (point, layers) in enumerate(points):
            # Two points of one method need two colours.
            style = view.style(point.method) if methods.count(point.method) == 1 else len(view.methods) + place
            marks = (
                Mark(la.layer, value(la), f"{name(point)}\nlayer {la.layer}: {written(value(la))}") for la in layers
            )
            lines.append(Line(name(point), style, tuple(marks)))
        if lines:
            y = Axis(unit, written, from_zero=True)
            yield Chart(f"layers-{file}", title, "", Axis("layer", _plain), y, tuple(lines))


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


_BY_LAYER: tuple[tuple[str, str, str, Callable[[float], str], Callable[[Layer], float]], ...] = (
    ("hit-rate", "Hit rate of the weight cache", "hits per access", _percent, lambda layer: layer.hit_rate),
    ("flash-bytes", "Read from flash", "bytes per token", format_bytes, lambda layer: layer.flash_bytes_per_token),
    ("dram-bytes", "Read from DRAM", "bytes per token", format_bytes, lambda layer: layer.dram_bytes_per_token),
)


def _traded(
    view: View,
    file: str,
    title: str,
    caption: str,
    lines: Iterable[Line],
    groups: Iterable[Iterable[Point]],
    at: Setting | None,
) -> Chart | None:
    """What is paid for throughput, in perplexity or density."""
    shown = tuple(line for line in lines if line.marks)
    if not any(line.style != DENSE for line in shown) and file != "pareto":
        return None
    if not shown:
        return None
    marks = [m.x for line in shown for m in (*line.marks, *line.loose)]
    if view.has_perplexity:
        x = Axis("perplexity, lower is better", _plain, log=max(marks) > _LOG_FROM * min(marks))
    else:
        x = Axis("density of the MLPs", _plain)
    away = [p for group in groups for p in group if p.perplexity is not None and not view.on_axis(p)]
    said_away = [f"{name(p)} ({number(p.perplexity)}, {number(p.throughput)} tok/s)" for p in away]
    note = f"Off the axis, with perplexity and throughput: {'; '.join(said_away)}." if away else ""
    joined = _JOINED if view.has_perplexity else _FASTEST
    dense = view.study.dense_perplexity
    rules = (Rule("x", dense, "dense"),) if view.has_perplexity and dense is not None else ()
    return Chart(
        file, title, f"{caption} {joined}".strip(), x, Axis(_SPEED, _plain, from_zero=True), shown, rules, note
    )


def _line(view: View, label: str, style: int, points: Sequence[Point], *, dashed: bool = False) -> Line:
    """The front of some points, the others beside it; those that are off the axis are left out."""
    if not view.has_perplexity:
        found = sorted(points, key=lambda p: (p.density_measured or 0.0, -p.throughput))
        best = {p.density_measured: p for p in reversed(found)}
        kept = tuple(p for p in found if best[p.density_measured] is p)
    else:
        points = [p for p in points if view.on_axis(p)]
        kept = front(points, lambda p: p.perplexity or 0.0)
    loose = [p for p in points if p not in kept]
    return Line(label, style, tuple(_mark(view, p) for p in kept), tuple(_mark(view, p) for p in loose), dashed)


def _mark(view: View, point: Point) -> Mark:
    cost = point.perplexity if view.has_perplexity else point.density_measured
    return Mark(1.0 if cost is None else cost, point.throughput, said(point))


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


def increase_text(increase: float) -> str:
    """How far above the dense model's a perplexity may be: "+0.2"."""
    return f"+{increase:.4g}"


def _device_axis(what: str, values: Sequence[float]) -> Axis:
    if what == "dram":
        return Axis("DRAM for the model", format_bytes, ticks=tuple(values))
    return Axis("flash bandwidth", format_bandwidth, log=True, ticks=tuple(values))


def _reach(target: Target) -> float:
    return target.tokens_per_second or 0.0


def _plain(value: float) -> str:
    return f"{value:,.6g}"
