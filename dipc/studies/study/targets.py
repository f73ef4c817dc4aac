"""The highest throughput within a perplexity: of a measured point, or between it and its neighbour beyond the limit.

Between the two, the time of a token is a straight line over perplexity. Over density time is close to one (the bytes
that a token reads are), and perplexity bends upwards as density falls, so the true time lies below the line: the
throughput that is given is rather too low than too high. A line of throughputs would promise more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dipc.quantities import number
from dipc.studies.study.result import Point, Target
from dipc.studies.study.search import bracket


def targets(points: Sequence[Point], dense_perplexity: float, increases: Iterable[float]) -> Iterator[Target]:
    """A target for each increase, method, device and policy; of a cache-aware method that of its best gamma.

    Args:
        points: of a study.
        dense_perplexity: what increases are over.
        increases: of perplexity.
    """
    dense = {(p.dram_bytes, p.flash_bytes_per_s): p.throughput for p in points if p.method == "dense"}
    groups: dict[tuple[str, int, float | None, str], dict[float | None, list[Point]]] = {}
    for point in points:
        if point.method != "dense":
            key = (point.method, point.dram_bytes, point.flash_bytes_per_s, point.policy)
            groups.setdefault(key, {}).setdefault(point.gamma, []).append(point)
    for increase in increases:
        for (_, dram, flash, _), by_gamma in groups.items():
            found = [
                of_points(members, dense_perplexity, increase, dense[dram, flash]) for members in by_gamma.values()
            ]
            best = max(found, key=lambda target: target.tokens_per_second or 0.0)
            speeds = {f"{target.gamma:g}": target.tokens_per_second for target in found if target.gamma is not None}
            yield dataclasses.replace(best, by_gamma=speeds)


def of_points(points: Sequence[Point], dense_perplexity: float, increase: float, dense_speed: float) -> Target:
    """The target of points that differ in their density only.

    Args:
        points: at least one.
        dense_perplexity: what the increase is over.
        increase: that is allowed.
        dense_speed: throughput of the dense model on the same device.
    """
    first = points[0]
    target = Target(first.method, increase, first.dram_bytes, first.flash_bytes_per_s, first.policy, first.gamma)
    measured = {p.density: p for p in points if p.cost is not None and p.perplexity is not None}
    if not measured:
        return dataclasses.replace(target, reason=first.reason or "there is no measured point")
    limit = dense_perplexity + increase
    inside = [p for p in measured.values() if p.perplexity <= limit]  # type: ignore[operator]
    if not inside:
        return _out_of_reach(target, measured, limit)
    inner = max(inside, key=lambda p: p.throughput)
    found = _reached(target, inner, dense_speed)
    lowest, outer = bracket({d: p.perplexity for d, p in measured.items()}, limit)  # type: ignore[misc]
    if outer is None:
        return dataclasses.replace(found, reason=f"density {lowest:g} is the lowest that was tried")
    between = _between(target, measured[lowest], measured[outer], limit, dense_speed)
    return between if (between.tokens_per_second or 0) > inner.throughput else found


def _reached(target: Target, point: Point, dense_speed: float) -> Target:
    return dataclasses.replace(
        target,
        tokens_per_second=point.throughput,
        perplexity=point.perplexity,
        density=point.density,
        speedup=point.throughput / dense_speed,
        neighbours=(point.id,),
    )


def _between(target: Target, inner: Point, outer: Point, limit: float, dense_speed: float) -> Target:
    """The point of the line from `inner` to `outer` that is at the limit."""
    assert inner.perplexity is not None and outer.perplexity is not None
    share = (limit - inner.perplexity) / (outer.perplexity - inner.perplexity)
    seconds = (1 - share) / inner.throughput + share / outer.throughput
    return dataclasses.replace(
        target,
        tokens_per_second=1 / seconds,
        perplexity=limit,
        density=(1 - share) * inner.density + share * outer.density,
        speedup=1 / seconds / dense_speed,
        interpolated=True,
        neighbours=(inner.id, outer.id),
    )


def _out_of_reach(target: Target, measured: Mapping[float, Point], limit: float) -> Target:
    highest = measured[max(measured)]
    reason = f"{number(highest.perplexity)} at density {highest.density:g}, the highest tried, is above {number(limit)}"
    return dataclasses.replace(target, reason=f"out of reach: {reason}", neighbours=(highest.id,))
