"""The frontier of a method: the least perplexity for the bytes that a token misses, of any density and gamma.

Masks that follow a cache give up perplexity for fewer bytes from flash, so two methods compare at equal bytes, never at
equal density. Between two points of a frontier the perplexity is on a straight line; perplexity bends upwards as bytes
fall, so the figure is rather too high than too low.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from dipc.cache.policy import get_policy
from dipc.studies.study.result import Point

SHARES = (0.1, 0.15, 0.2, 0.3, 0.4)
"""Missed shares of the MLPs' bytes at which methods are compared."""


def frontier(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that no other one beats in perplexity and in bytes missed, by ascending bytes.

    Points without a perplexity or a price, and those of a policy that knows the future, are left out.
    """
    known = [p for p in points if p.cost and p.perplexity is not None and math.isfinite(p.perplexity)]
    online = [p for p in known if get_policy(p.policy).online]
    best: list[Point] = []
    for point in sorted(online, key=lambda p: (missed_share(p), p.perplexity)):
        if not best or perplexity_of(point) < perplexity_of(best[-1]):
            best.append(point)
    return tuple(best)


def perplexity_at(points: Sequence[Point], missed: float) -> float | None:
    """The perplexity of a frontier where `missed` of the MLPs' bytes are; None outside of it."""
    if points and missed == missed_share(points[0]):
        return points[0].perplexity
    for low, high in pairwise(points):
        first, last = missed_share(low), missed_share(high)
        if first < missed <= last:
            part = (missed - first) / (last - first)
            return perplexity_of(low) + part * (perplexity_of(high) - perplexity_of(low))
    return None


def at_equal_bytes(frontiers: Collection[Sequence[Point]]) -> dict[float, list[float | None]]:
    """Missed share -> the perplexity of each frontier there, at those of SHARES that at least two of them reach."""
    found = {share: [perplexity_at(points, share) for points in frontiers] for share in SHARES}
    return {share: values for share, values in found.items() if sum(v is not None for v in values) > 1}


def missed_share(point: Point) -> float:
    """Bytes of the units that a token misses, of all bytes of the MLPs."""
    assert point.cost is not None
    return point.cost.missed_share


def perplexity_of(point: Point) -> float:
    """The perplexity of a point that has one."""
    assert point.perplexity is not None
    return point.perplexity
