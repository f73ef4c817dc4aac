"""A chart as data: lines of marks over two axes. `dipc.report.html` draws it as SVG, `study_plot` with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DENSE = -1
"""The style of the dense model's marks; the other styles count from 0."""
SPEED = "tokens per second"
"""The label of an axis of throughput."""


@dataclass(frozen=True)
class Mark:
    """One place on a chart, and what is said of it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """Marks of one kind.

    Attributes:
        label: its name in the legend.
        style: which colour and marker; the same method has the same on every chart.
        marks: joined in this order.
        loose: marks of the same kind that the line leaves out, drawn faintly.
        dashed: whether the line is broken, as for what no device can do.
    """

    label: str
    style: int
    marks: tuple[Mark, ...]
    loose: tuple[Mark, ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what it measures, and in which unit.
        written: a value of it as text.
        log: whether equal distances are equal ratios.
        from_zero: whether it starts at 0, so that heights compare as their values do.
        ticks: the only values that it names, where there are few; by default round ones.
    """

    label: str
    written: Callable[[float], str]
    log: bool = False
    from_zero: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A value of one axis that is marked all across the chart."""

    axis: Literal["x", "y"]
    value: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Lines over two axes.

    Attributes:
        name: of the file that it is written to.
        caption: what is shown, and what is left out.
        note: marks that are off the axes, and where they are.
    """

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...] = ()
    note: str = ""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks of all lines."""
        return tuple(mark for line in self.lines for mark in (*line.loose, *line.marks))


def plain(value: float) -> str:
    """A value of an axis without a unit."""
    return f"{value:,.6g}"
