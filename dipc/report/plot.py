"""Perplexity over measured density, a line per method: Figure 8."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dipc.errors import MissingDependency
from dipc.quantities import number
from dipc.studies.method_rows import unaware_form

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dipc.studies.compare import Comparison, Row

FORMATS = ("svg", "png")
HOPELESS = 4.0
"""Perplexity above so many times the dense model's is off the axis; a note below the plot says where it is."""
_LOG_FROM = 1.5
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),  # Okabe and Ito
    *("#332288", "#882255", "#999933", "#44AA99", "#666666"),  # Tol, where more are needed
)
_MARKERS = (*"osD^vP*Xph<>8dH", (4, 1, 0), (6, 1, 0), (3, 1, 0))
_VARIANTS = ((" + LoRA", "--"), (", split", "-."), (", by layer", (0, (1, 1, 4, 1))), (" (oracle)", "-."))
_CACHE_AWARE = ":"

Line = list[tuple[float, float]]


def require_matplotlib() -> None:
    """MissingDependency if there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependency('the plot needs matplotlib: pip install "dipc[plot]"') from error


def perplexity_plot(found: Comparison) -> dict[str, bytes]:
    """Perplexity over measured density as `{"svg": ..., "png": ...}`: dense dashed across, a line per method.

    Raises:
        MissingDependency: no matplotlib.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and the same figures give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dipc", "font.size": 9}):
        figure = Figure(figsize=(8.4, 5.2), layout="constrained")
        _draw(figure, found)
        return saved(figure)


def saved(figure: Figure) -> dict[str, bytes]:
    """Return a figure as a file of each format, without the date."""
    found: dict[str, bytes] = {}
    for kind in FORMATS:
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
        found[kind] = content.getvalue()
    return found


def _draw(figure: Figure, found: Comparison) -> None:
    axes = figure.subplots()
    dense = found.dense.figures
    assert dense is not None
    lines = {label: line for label, line in _lines(found.rows).items() if line}
    ceiling = HOPELESS * dense.perplexity
    seen = [y for line in lines.values() for _, y in line if y <= ceiling] + [dense.perplexity]
    seen = [y for y in seen if math.isfinite(y)] or [1.0]
    families = list(dict.fromkeys(_family(label) for label in lines))
    markers = {label: _MARKERS[place % len(_MARKERS)] for place, label in enumerate(lines)}
    # From the top of the plot to its bottom, so that the eye finds a line where its name stands.
    for label, line in sorted(lines.items(), key=lambda item: (-item[1][0][1], item[0])):
        place = families.index(_family(label))
        variant = _variant(label)
        colour = _COLOURS[place % len(_COLOURS)]
        axes.plot(
            *zip(*line, strict=True),
            label=label,
            color=colour,
            linestyle=variant or "-",
            marker=markers[label],
            markersize=5.5,
            markerfacecolor="white" if variant else colour,
            linewidth=1.4,
        )
    axes.axhline(
        dense.perplexity, color="black", linestyle="--", linewidth=1, label=f"dense, {number(dense.perplexity)}"
    )
    low, high = min(seen), max(seen)
    if high > _LOG_FROM * low:
        _logarithmic(axes)
    room = max((high / low) ** 0.06, 1.01)
    axes.set_ylim(low / room, high * room)
    axes.set_xlabel("density of the MLPs, measured")
    axes.set_ylabel("perplexity")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3)
    axes.set_title(_title(found), loc="left", fontsize=9)
    _note(figure, lines, ceiling)


def _lines(rows: Iterable[Row]) -> dict[str, Line]:
    """Label -> (measured density, perplexity) by density."""
    found: dict[str, Line] = {}
    for row in rows:
        line = found.setdefault(row.label, [])
        if row.figures is not None:
            line.append((row.figures.density, row.figures.perplexity))
    return {label: sorted(line) for label, line in found.items()}


def _variant(label: str) -> Any:
    """Return the line of a row that is a variant of another; None for any other row."""
    if unaware_form(label) is not None:
        return _CACHE_AWARE
    return next((style for end, style in _VARIANTS if label.endswith(end)), None)


def _family(label: str) -> str:
    """Return what a row is a variant of: it has that one's colour."""
    for end, _ in _VARIANTS:
        label = label.removesuffix(end)
    return (unaware_form(label) or label).partition(" ")[0]


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _title(found: Comparison) -> str:
    shared: Mapping[str, Any] = found.protocol
    windows = f"windows of {shared['tokens of a window']:,}, {shared['tokens scored']:,} tokens scored"
    return f"{found.model['name']} on {shared['text']}: {windows}, scope {shared['scope']}"


def _note(figure: Figure, lines: Mapping[str, Line], ceiling: float) -> None:
    beyond = [(label, x, y) for label, line in lines.items() for x, y in line if not y <= ceiling or math.isinf(y)]
    away = [f"{label} {number(y)} at {x:.2g}" for label, x, y in beyond]
    if away:
        figure.supxlabel(f"above the axis: {', '.join(away)}", fontsize=8, color="#555555", wrap=True)
