"""The times of one case, and how many times faster one is than another that took turns with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Timing:
    """The times of one case.

    Attributes:
        rounds: seconds of each call of each round, for one of what is measured.
        bytes_read: what one of them reads from memory.
        answer: what the case returned, for comparison, where it returned anything.
        idle: after every turn the process was seen to use no processor.
    """

    rounds: tuple[tuple[float, ...], ...]
    bytes_read: float = 0.0
    answer: tuple[float, ...] | None = None
    idle: bool = True

    @cached_property
    def sorted_s(self) -> tuple[float, ...]:
        """All times, in order."""
        return tuple(sorted(s for times in self.rounds for s in times))

    def quantile_s(self, share: float) -> float:
        """Return the time that this share of the calls stayed within."""
        return quantile(self.sorted_s, share)

    @property
    def median_s(self) -> float:
        """The median of all calls."""
        return self.quantile_s(0.5)

    @property
    def bytes_per_s(self) -> float:
        """Bytes that had to be read, by the median time."""
        return self.bytes_read / self.median_s


@dataclass(frozen=True)
class Ratio:
    """The ratio of two cases' times: of the medians, and its 10-90 % range over the rounds."""

    value: float
    low: float
    high: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of values in order, interpolated."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def speedup(fast: Timing, slow: Timing) -> Ratio:
    """Return how many times faster `fast` is than `slow`, which took turns with it."""
    pairs = zip(fast.rounds, slow.rounds, strict=True)
    by_round = sorted(quantile(sorted(s), 0.5) / quantile(sorted(f), 0.5) for f, s in pairs)
    return Ratio(slow.median_s / fast.median_s, quantile(by_round, 0.1), quantile(by_round, 0.9))
