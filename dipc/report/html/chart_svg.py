"""A chart as SVG, drawn once for each width, so that its letters have the same size on every screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dipc.report.chart import DENSE, Axis, Chart, Line, Mark
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.scale import Scale, scale_of, ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 16.0, 34.0, 46.0
_LETTER = 6.6
"""Width of a letter, about, in pixels."""
_RADIUS, _SMALL = 4.5, 2.2
_MANY = 24
"""A line of more marks has small ones."""
_SQUARE = (4, 45.0, 1.25)
_CORNERS: tuple[tuple[int, float, float], ...] = (
    (0, 0.0, 1.0),  # a circle
    (3, -90.0, 1.5),
    (4, 0.0, 1.35),
    (3, 90.0, 1.5),
    (5, -90.0, 1.3),
    (3, 0.0, 1.5),
    (6, 0.0, 1.2),
    (3, 180.0, 1.5),
)
"""Corners, where the first points (degrees), and how much larger than a circle; the square is the dense model's."""
STYLES = len(_CORNERS)
"""Of so many there are a colour and a shape; after them both begin again."""


@dataclass(frozen=True)
class Size:
    """The size of a drawing, in pixels."""

    width: float
    height: float
    name: str
    """Its class in the style sheet, which shows it on screens of its width."""


def chart_svg(chart: Chart, size: Size) -> Markup:
    """The chart without its title and legend; `element("title")` of a mark is its tooltip."""
    x, y = _scales(chart, size)
    parts = [_x_axis(chart.x, x, y, size), _y_axis(chart.y, y, x), *_rules(chart, x, y)]
    parts += [_line(line, x, y) for line in chart.lines]
    said = f"{chart.title}. {chart.y.label} over {chart.x.label}: " + "; ".join(
        _said(chart, line) for line in chart.lines
    )
    return drawing("chart", size, said, *parts)


def drawing(kind: str, size: Size, said: str, *parts: str) -> Markup:
    """An `svg` of that size; `said` is what it shows, for those who do not see it."""
    box = {"viewBox": f"0 0 {size.width:g} {size.height:g}"}
    names = f"{kind} {size.name}"
    return element("svg", *parts, class_=names, role="img", aria_label=said, **box)


def swatch(line: Line) -> Markup:
    """A line and its marker, for the legend."""
    parts = [element("path", d="M1 8H27", class_=_classes("line", line)), _marker(14, 8, _RADIUS, line.style, "mark")]
    return element("svg", *parts, class_="swatch", viewBox="0 0 28 16", aria_hidden="true")


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> Markup:
    """A label; `anchor` says which part of it is at x."""
    return element("text", content, x=_px(x), y=_px(y), class_=kind, text_anchor=anchor)


def _scales(chart: Chart, size: Size) -> tuple[Scale, Scale]:
    across = [r.value for r in chart.rules if r.axis == "x"]
    up = [r.value for r in chart.rules if r.axis == "y"]
    return (
        scale_of(chart.x, [*(m.x for m in chart.marks), *across], _LEFT, size.width - _RIGHT),
        scale_of(chart.y, [*(m.y for m in chart.marks), *up], size.height - _BOTTOM, _TOP),
    )


def _x_axis(axis: Axis, x: Scale, y: Scale, size: Size) -> Markup:
    values = axis.ticks or ticks(x, round((x.end - x.start) / 70))
    parts, reached = [], 0.0
    for value in values:
        at, written = x(value), axis.written(value)
        parts.append(element("path", d=f"M{_px(at)} {_px(y.start)}V{_px(y.end)}", class_="grid"))
        half = len(written) * _LETTER / 2
        if at - half > reached and at + half < size.width:
            parts.append(text(at, y.start + 18, written, "tick", "middle"))
            reached = at + half + _LETTER
    parts.append(element("path", d=f"M{_px(x.start)} {_px(y.start)}H{_px(x.end)}", class_="base"))
    parts.append(text((x.start + x.end) / 2, size.height - 8, axis.label, "axis", "middle"))
    return joined(*parts)


def _y_axis(axis: Axis, y: Scale, x: Scale) -> Markup:
    parts = []
    for value in axis.ticks or ticks(y, round((y.start - y.end) / 48)):
        parts.append(element("path", d=f"M{_px(x.start)} {_px(y(value))}H{_px(x.end)}", class_="grid"))
        parts.append(text(x.start - 7, y(value) + 4, axis.written(value), "tick", "end"))
    parts.append(text(4, 14, axis.label, "axis"))
    return joined(*parts)


def _rules(chart: Chart, x: Scale, y: Scale) -> list[Markup]:
    parts = []
    for rule in chart.rules:
        if rule.axis == "x":
            at = x(rule.value)
            path, label = f"M{_px(at)} {_px(y.start)}V{_px(y.end)}", text(at + 5, y.end + 10, rule.label, "rule-label")
        else:
            at = y(rule.value)
            path, label = (
                f"M{_px(x.start)} {_px(at)}H{_px(x.end)}",
                text(x.end, at - 5, rule.label, "rule-label", "end"),
            )
        parts += [element("path", d=path, class_="rule"), label]
    return parts


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    joints = " ".join(f"{_px(x(m.x))},{_px(y(m.y))}" for m in line.marks)
    radius = _RADIUS if len(line.marks) <= _MANY else _SMALL
    parts = [_spot(mark, line.style, x, y, radius, "mark loose") for mark in line.loose]
    if len(line.marks) > 1:
        parts.append(element("polyline", points=joints, class_=_classes("line", line)))
    parts += [_spot(mark, line.style, x, y, radius, "mark") for mark in line.marks]
    return element("g", *parts)


def _spot(mark: Mark, style: int, x: Scale, y: Scale, radius: float, kind: str) -> Markup:
    return _marker(x(mark.x), y(mark.y), radius, style, kind, element("title", mark.text))


def _marker(x: float, y: float, radius: float, style: int, kind: str, *inside: str) -> Markup:
    corners, turn, scale = _SQUARE if style == DENSE else _CORNERS[style % STYLES]
    kind = f"{kind} {colour(style)}"
    if not corners:
        return element("circle", *inside, cx=_px(x), cy=_px(y), r=radius, class_=kind)
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    reach = radius * scale
    path = "L".join(f"{_px(x + reach * math.cos(a))} {_px(y + reach * math.sin(a))}" for a in angles)
    return element("path", *inside, d=f"M{path}Z", class_=kind)


def colour(style: int) -> str:
    """The class of a style's colour."""
    return "dense" if style == DENSE else f"c{style % STYLES}"


def _classes(kind: str, line: Line) -> str:
    return f"{kind} {colour(line.style)}" + (" dashed" if line.dashed else "")


def _said(chart: Chart, line: Line) -> str:
    ends: Sequence[Mark] = line.marks[:1] + line.marks[1:][-1:]
    return f"{line.label} " + " to ".join(f"{chart.y.written(m.y)} at {chart.x.written(m.x)}" for m in ends)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
