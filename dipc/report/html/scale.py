"""From values to pixels, and the round values that an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dipc.report.chart import Axis

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_DECADES = ((1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0))
_ROOM = 0.05
"""Share of the axis beyond the outermost marks."""


@dataclass(frozen=True)
class Scale:
    """A range of values on a range of pixels, `start` being where `low` is."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Return whether the value is on the axis."""
        slack = 1e-9 * (abs(self.low) + abs(self.high))
        return self.low - slack <= value <= self.high + slack


def scale_of(axis: Axis, values: Iterable[float], start: float, end: float) -> Scale:
    """The scale on which all values are seen, with a little room; a single value is in the middle."""
    found = [*values, *axis.ticks]
    low, high = min(found, default=1.0), max(found, default=1.0)
    if axis.log:
        room = max(high / low, 1.1) ** _ROOM
        return Scale(low / room, high * room, True, start, end)
    if axis.from_zero:
        return Scale(0.0, (high or 1.0) * (1 + _ROOM), False, start, end)
    room = _ROOM * (high - low) or abs(low) * _ROOM or 1.0
    return Scale(low - room, high + room, False, start, end)


def ticks(scale: Scale, count: int) -> Sequence[float]:
    """Round values on a scale, some `count` of them."""
    if scale.log:
        for steps in _DECADES:
            found = _by_decades(scale, steps)
            if len(found) >= 3:
                return found[:: -(-len(found) // max(count, 3))]
    step = _round_step((scale.high - scale.low) / count)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _round_step(least: float) -> float:
    """The smallest round number that is not below `least`."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(step * decade for step in _ROUND if step * decade >= least * (1 - 1e-9))


def _by_decades(scale: Scale, steps: Sequence[float]) -> list[float]:
    exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    return [v for e in exponents for s in steps if scale.holds(v := s * 10.0**e)]
