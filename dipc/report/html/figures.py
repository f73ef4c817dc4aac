"""The sections with charts. Each drawing is there twice, for wide screens and for phones; the style sheet shows one."""

from __future__ import annotations

from dipc.memory.timeline import Timeline
from dipc.report.chart import Chart
from dipc.report.html.chart_svg import Size, chart_svg, swatch
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.tables import layers_table, reads_table
from dipc.report.html.timeline_svg import timelines_svg
from dipc.report.study_charts import StudyCharts
from dipc.report.study_view import View, name

_PHONE = 334.0
_WIDE, _HALF = 1040.0, 496.0
_THIRD = Size(_PHONE, 300, "any")
"""A third of a wide screen is as wide as a phone: one drawing does for both."""


def pareto_section(charts: StudyCharts) -> Markup | None:
    """The main chart, and the same at the device's other settings."""
    if charts.pareto is None:
        return None
    parts = [_figure(charts.pareto, Size(_WIDE, 440, "wide"))]
    if charts.others:
        others = element("div", *map(_half, charts.others), class_="grid-2")
        parts.append(element("details", element("summary", f"The same at {len(charts.others)} other settings"), others))
    return joined(*parts)


def panel_section(charts: StudyCharts) -> Markup | None:
    """Over bytes missed, DRAM, flash, gamma and policy."""
    return element("div", *map(_half, charts.panels), class_="grid-2") if charts.panels else None


def layer_section(view: View, charts: StudyCharts) -> Markup | None:
    """Hit rate and traffic by layer, and their figures."""
    if not charts.layers:
        return None
    shown = [p for p in view.featured if p.cost is not None and p.cost.layers]
    figures = layers_table([name(p) for p in shown], shown)
    return joined(
        element("p", f"Means over the counted tokens, with {view.featured_at}.", class_="lead"),
        element("div", *(_figure(chart, _THIRD) for chart in charts.layers), class_="grid-3"),
        element("details", element("summary", "The figures"), figures),
    )


def timeline_section(view: View) -> Markup | None:
    """Return when each layer's reads come from flash and from DRAM."""
    found = [Timeline.from_dict(t) for t in view.study.timelines]
    names = {p.id: name(p) for p in view.priced}
    shown = [(names.get(t.point, t.point), t) for t in found if t.events]
    if not shown:
        return None
    said = "One token of each program, its reads in the order of the layers. Compute is not counted."
    drawn = element(
        "figure",
        element("figcaption", element("p", said)),
        element("ul", *(_key(kind, text) for kind, text in _READS), class_="legend"),
        timelines_svg(shown, _WIDE, "wide"),
        timelines_svg(shown, _PHONE, "narrow"),
        class_="card",
    )
    return joined(drawn, element("div", reads_table(shown), class_="below-card"))


_READS = (
    ("flash even", "flash, even layers"),
    ("flash odd", "flash, odd layers"),
    ("dram even", "DRAM, even layers"),
    ("dram odd", "DRAM, odd layers"),
    ("dram rest", "resident weights and KV cache"),
)


def _key(kind: str, text: str) -> Markup:
    box = element("rect", x=6, y=2, width=16, height=12, rx=2, class_=f"read {kind}")
    return element("li", element("svg", box, class_="swatch", viewBox="0 0 28 16", aria_hidden="true"), text)


def _half(chart: Chart) -> Markup:
    return _figure(chart, Size(_HALF, 320, "wide"))


def _figure(chart: Chart, size: Size) -> Markup:
    legend = [element("li", swatch(line), line.label) for line in chart.lines]
    caption = [element("h3", chart.title), *([element("p", chart.caption)] if chart.caption else [])]
    return element(
        "figure",
        element("figcaption", *caption),
        element("ul", *legend, class_="legend"),
        chart_svg(chart, size),
        *([] if size is _THIRD else [chart_svg(chart, Size(_PHONE, 300, "narrow"))]),
        *([element("p", chart.note, class_="note")] if chart.note else []),
        class_="card",
    )
