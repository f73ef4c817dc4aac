"""The price of throughput: charts over perplexity, or over density where no perplexity is known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dipc.quantities import number
from dipc.report.chart import DENSE, SPEED, Axis, Chart, Line, Mark, Rule, plain
from dipc.report.study_view import Setting, View, distinct, front, increase_text, knows_future, name, said, setting
from dipc.studies.method_rows import unaware_form

if TYPE_CHECKING:
    from dipc.studies.study.result import Point

_LOG_FROM = 2.5
"""Perplexities whose greatest is above so many times their least are on a logarithmic axis."""
_JOINED = "A line joins the points that no other of its kind beats in both; the others are faint."
_FASTEST = "A line joins the fastest of its kind at each density; the others are faint. What it costs is not known."
_LONGEST = 80
"""Longest name of a method in a file's name."""
_MOST_NAMED = 6
"""Points off an axis that a note names."""


def pareto_chart(view: View, at: Setting, file: str) -> Chart | None:
    """Throughput over perplexity, a line per method (Figure 8)."""
    groups = {method: view.at(at, method) for method in view.methods}
    lines = [_line(view, method, view.style(method), points) for method, points in groups.items()]
    dense = view.dense(at)
    if dense is not None and (not view.has_perplexity or dense.perplexity is not None):
        lines.insert(0, Line("dense", DENSE, (_mark(view, dense),)))
    return _traded(view, file, f"With {at.text}", "", lines, groups.values())


def gamma_charts(view: View) -> Iterator[Chart]:
    """A line per gamma beside the method that has none (Figure 10, right)."""
    for method in view.methods:
        points = view.at(view.base, method)
        gammas = sorted({p.gamma for p in points if p.gamma is not None})
        if len(gammas) < 2:
            continue
        groups = {f"gamma {gamma:g}": [p for p in points if p.gamma == gamma] for gamma in gammas}
        unaware = unaware_form(method)
        if unaware is not None and unaware in view.methods:
            groups[f"{unaware}, not cache-aware"] = list(view.at(view.base, unaware))
        lines = [_line(view, label, i, found) for i, (label, found) in enumerate(groups.items())]
        caption = f"{method} by gamma, the weight of what is not cached."
        chart = _traded(view, f"gamma-{_file(method)}", f"By gamma: {method}", caption, lines, groups.values())
        yield from [chart] if chart else []
        yield from _best_gamma(view, method)


def _best_gamma(view: View, method: str) -> Iterator[Chart]:
    """Throughput over gamma, a line per perplexity that was aimed at (Figure 10, right)."""
    own = [t for t in view.study.targets if t.method == method and setting(t) == view.base and len(t.by_gamma) > 1]
    several = len({target.policy for target in own}) > 1
    lines: list[Line] = []
    for target in own:
        speeds = {float(gamma): speed for gamma, speed in target.by_gamma.items() if speed is not None}
        if speeds:
            label = f"perplexity at most {increase_text(target.max_ppl_increase)}"
            label = f"{label}, {target.policy}" if several else label
            marks = (Mark(x, y, f"{label}\ngamma {x:g}: {number(y)} tok/s") for x, y in sorted(speeds.items()))
            lines.append(Line(label, len(lines), tuple(marks)))
    if lines:
        left_out = "interpolated where no run met it; gammas that do not reach it are left out"
        caption = f"The highest throughput of {method} at a perplexity, {left_out}."
        x = Axis("gamma", plain, ticks=tuple(sorted({m.x for line in lines for m in line.marks})))
        y = Axis(SPEED, plain, from_zero=True)
        yield Chart(f"gamma-{_file(method)}-best", f"The best gamma: {method}", caption, x, y, tuple(lines))


def policy_charts(view: View) -> Iterator[Chart]:
    """A line per eviction policy of one method, beside its cache-aware form (Figure 11)."""
    at = [p for p in view.priced if setting(p) == view.base and p.method != "dense"]
    counts = {method: distinct(p.policy for p in at if p.method == method) for method in view.methods}
    method = max(counts, key=lambda m: len(counts[m]), default="")
    if len(counts.get(method, ())) < 2:
        return
    groups = {
        f"{method}, {policy}": [p for p in at if (p.method, p.policy) == (method, policy)] for policy in counts[method]
    }
    groups |= {aware: list(view.at(view.base, aware)) for aware in view.methods if unaware_form(aware) == method}
    oracles = [policy for policy in counts[method] if knows_future(policy)]
    dashed = {f"{method}, {policy}" for policy in oracles}
    lines = [_line(view, label, i, found, dashed=label in dashed) for i, (label, found) in enumerate(groups.items())]
    known = f" Dashed ({', '.join(oracles)}): knows the future, which no device can." if oracles else ""
    caption = f"{method} by eviction policy.{known}"
    chart = _traded(view, "policy", "By eviction policy", caption, lines, groups.values())
    yield from [chart] if chart else []


def _traded(
    view: View,
    file: str,
    title: str,
    caption: str,
    lines: Iterable[Line],
    groups: Iterable[Iterable[Point]],
) -> Chart | None:
    """Return what is paid for throughput, in perplexity or density."""
    shown = tuple(line for line in lines if line.marks)
    if not any(line.style != DENSE for line in shown):
        return None
    marks = [m.x for line in shown for m in (*line.marks, *line.loose)]
    if view.has_perplexity:
        x = Axis("perplexity, lower is better", plain, log=max(marks) > _LOG_FROM * min(marks))
    else:
        x = Axis("density of the MLPs", plain)
    away = [p for group in groups for p in group if p.perplexity is not None and not view.on_axis(p)]
    joined = _JOINED if view.has_perplexity else _FASTEST
    dense = view.study.dense_perplexity
    rules = (Rule("x", dense, "dense"),) if view.has_perplexity and dense is not None and math.isfinite(dense) else ()
    y = Axis(SPEED, plain, from_zero=True)
    return Chart(file, title, f"{caption} {joined}".strip(), x, y, shown, rules, _beyond(away))


def _file(method: str) -> str:
    """A method, which may be a whole pipeline, as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", method).strip("-")[:_LONGEST]


def _beyond(away: Sequence[Point]) -> str:
    """Return what is off the axis, and where."""
    said = [f"{name(p)} ({number(p.perplexity)}, {number(p.throughput)} tok/s)" for p in away[:_MOST_NAMED]]
    more = f" and {len(away) - _MOST_NAMED} more" if len(away) > _MOST_NAMED else ""
    return f"Off the axis, with perplexity and throughput: {'; '.join(said)}{more}." if away else ""


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
