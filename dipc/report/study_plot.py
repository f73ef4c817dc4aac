"""The charts of a study as SVG and PNG files, for papers and slides; `dipc.report.html` has them on its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipc.errors import UsageError
from dipc.files import write_whole
from dipc.report.chart import DENSE, Axis, Chart, Line
from dipc.report.plot import require_matplotlib, saved
from dipc.report.study_charts import study_charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dipc.studies.study.result import Study

_COLOURS = ("#0b63b0", "#c14a00", "#00784f", "#a03a86", "#8a6100", "#1d7c93", "#b3243c", "#5b4fcf")
_MARKERS = ("o", "^", "D", "v", "p", ">", "h", "<")


def write_plots(study: Study, folder: Path) -> list[Path]:
    """Write every chart of a study as `NAME.svg` and `NAME.png` into a folder, which is made.

    Raises:
        MissingDependency: no matplotlib.
        UsageError: the folder cannot be made or written to.
    """
    require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
    title = f"{study.model['name']} on {study.device['name']}, simulated"
    written = []
    for chart in study_charts(study).all:
        for kind, content in chart_plot(chart, title).items():
            path = folder / f"{chart.name}.{kind}"
            write_whole(path, lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]
            written.append(path)
    return written


def chart_plot(chart: Chart, title: str) -> dict[str, bytes]:
    """A chart as `{"svg": ..., "png": ...}`, under a title and its own. Raises MissingDependency."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and the same figures give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dipc", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for line in chart.lines:
            _draw(axes, line)
        for rule in chart.rules:
            draw = axes.axvline if rule.axis == "x" else axes.axhline
            draw(rule.value, color="#3c434d", linestyle="--", linewidth=1)
        _set(axes, "x", chart.x)
        _set(axes, "y", chart.y)
        axes.grid(color="#dfe3e8", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        axes.set_title(f"{title}\n{chart.title}", loc="left", fontsize=9)
        if chart.note:
            figure.supxlabel(chart.note, fontsize=7, color="#575f6b", wrap=True)
        return saved(figure)


def _draw(axes: Axes, line: Line) -> None:
    dense = line.style == DENSE
    colour = "#3c434d" if dense else _COLOURS[line.style % len(_COLOURS)]
    marker = "s" if dense else _MARKERS[line.style % len(_MARKERS)]
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
    style = ":" if line.dashed else "-"
    axes.plot([m.x for m in line.marks], [m.y for m in line.marks], linestyle=style, label=line.label, **look)
    if line.loose:
        faint = {**look, "linestyle": "", "markerfacecolor": "white", "alpha": 0.4}
        axes.plot([m.x for m in line.loose], [m.y for m in line.loose], **faint)


def _set(axes: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    own = getattr(axes, f"{which}axis")
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
        own.set_major_locator(LogLocator(subs=(1, 2, 5)))
    elif axis.from_zero:
        getattr(axes, f"set_{which}lim")(0)
    own.set_minor_formatter(NullFormatter())
    if axis.ticks:
        own.set_ticks(axis.ticks)
    own.set_major_formatter(FuncFormatter(lambda value, _: axis.written(value)))
    own.set_label_text(axis.label)
