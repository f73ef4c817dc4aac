"""What the figures of a study show, in sentences: the paper's observations, and whether this model has them too."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import mean, median
from typing import Any, TypeVar

from dipc.cache.policy import get_policy
from dipc.quantities import format_bytes, number, share
from dipc.studies.study.method_grid import DENSE
from dipc.studies.study.result import Point, Study, Target

T = TypeVar("T")
_PROPORTIONAL = 0.05
"""How far from 1 the power may be of what is called proportional."""


def findings(found: Study) -> Iterator[str]:
    """A sentence per claim that the points and targets allow.

    Where there are several flash speeds, all but the claim about them are made at the middle one.
    """
    flash = middle_flash(found)
    points = [p for p in found.points if p.flash_bytes_per_s == flash]
    targets = [t for t in found.targets if t.flash_bytes_per_s == flash]
    yield from _best(targets)
    # DRAM as large as the model need not do: the KV cache lies there too.
    fits = {p.dram_bytes for p in points if p.method == DENSE and p.cost and not p.cost.flash_bytes_per_token}
    yield from _by_dram(targets, fits)
    if fits:
        yield f"The whole model fits into {format_bytes(min(fits))} of DRAM: dense reads no flash there."
    yield from _by_flash(found.points)
    yield from _by_gamma(targets)
    yield from _by_policy(points)
    yield from _beside_oracle(points)


def middle_flash(found: Study) -> float | None:
    """Of the flash bandwidths that were asked for the middle one; None where it is the device's."""
    rates = sorted({p.flash_bytes_per_s for p in found.points if p.flash_bytes_per_s is not None})
    return rates[len(rates) // 2] if rates else None


def _best(targets: Sequence[Target]) -> Iterator[str]:
    """Which method is fastest within each increase (Table 2)."""
    for (increase, dram), group in _grouped(targets, "max_ppl_increase", "dram_bytes"):
        reached = [t for t in group if t.tokens_per_second and get_policy(t.policy).online]
        within = f"Within +{increase:.4g} of the dense perplexity and {format_bytes(dram)} of DRAM"
        if not reached:
            yield f"{within}, no method is in reach."
            continue
        best = max(reached, key=lambda t: t.tokens_per_second or 0.0)
        gamma = "" if best.gamma is None else f", gamma {best.gamma:g}"
        yield (
            f"{within}, {best.method} at density {share(best.density)} ({best.policy}{gamma}) is the fastest: "
            f"{number(best.tokens_per_second)} tok/s, {number(best.speedup, 3)} times dense."
        )


def _by_dram(targets: Sequence[Target], fits: Collection[int]) -> Iterator[str]:
    """How the gain over dense goes with DRAM (Table 6); `fits` are the sizes that hold the whole model."""
    for (method, increase, policy), group in _grouped(targets, "method", "max_ppl_increase", "policy"):
        gains = sorted((t.dram_bytes, t.speedup) for t in group if t.speedup is not None)
        if len(gains) > 1:
            listed = ", ".join(f"{number(gain, 3)} at {format_bytes(dram)}" for dram, gain in gains)
            short = [gain for dram, gain in gains if dram not in fits]
            until = "" if len(short) in (0, len(gains)) else " until the model fits"
            how = f"{_course(short if len(short) > 1 else [gain for _, gain in gains])} with DRAM{until}"
            yield f"The gain of {method} ({policy}) over dense within +{increase:.4g} {how}: {listed}."


def _by_flash(points: Sequence[Point]) -> Iterator[str]:
    """Whether throughput is proportional to the flash's bandwidth (Table 7)."""
    powers: dict[str, list[float]] = {}
    for (method, *_), group in _grouped(points, "method", "density", "gamma", "policy", "dram_bytes"):
        speeds = [(p.flash_bytes_per_s, p.throughput) for p in group if p.flash_bytes_per_s and p.cost]
        if len({rate for rate, _ in speeds}) > 1:
            powers.setdefault(method, []).append(_power(speeds))
    for method, found in powers.items():
        middle = median(found)
        what = "is proportional to" if abs(middle - 1) <= _PROPORTIONAL else "grows more slowly than"
        least = "" if min(found) > middle - _PROPORTIONAL else f", at least {min(found):.2g}, where DRAM is the slower"
        yield f"Throughput of {method} {what} flash bandwidth: it goes with its power {middle:.2f} (median{least})."


def _by_gamma(targets: Sequence[Target]) -> Iterator[str]:
    """Which gamma is the best (Figure 10)."""
    for (method, policy, increase), group in _grouped(targets, "method", "policy", "max_ppl_increase"):
        best = [t for t in group if len(t.by_gamma) > 1 and t.gamma is not None and t.tokens_per_second]
        if best:
            listed = ", ".join(f"{t.gamma:g} with {format_bytes(t.dram_bytes)}" for t in best)
            tried = ", ".join(best[0].by_gamma)
            agrees = all(0.1 <= (t.gamma or 0) <= 0.3 for t in best)
            paper = "as in the paper (0.1 to 0.3)" if agrees else "where the paper finds 0.1 to 0.3"
            whose = f"{method} ({policy}) within +{increase:.4g}"
            yield f"Of the gammas {tried}, the best for {whose} is {listed} of DRAM, {paper}."


def _by_policy(points: Sequence[Point]) -> Iterator[str]:
    """What policies make of the same masks (Figure 11)."""
    for (method, dram, gamma), group in _grouped(points, "method", "dram_bytes", "gamma"):
        by_policy = {
            policy: {p.density: p.throughput for p in same if p.cost} for (policy,), same in _grouped(group, "policy")
        }
        base = by_policy.get("lfu")
        if base is None or gamma is not None:
            continue
        gains = []
        for policy, speeds in by_policy.items():
            ratios = [speed / base[density] for density, speed in speeds.items() if density in base]
            if policy != "lfu" and ratios:
                gains.append(f"{policy} {_range(ratios)}")
        if gains:
            place = f"With {format_bytes(dram)} of DRAM"
            yield f"{place}, {method} has, in shares of its throughput under lfu: {'; '.join(gains)}."


def _beside_oracle(points: Sequence[Point]) -> Iterator[str]:
    """Whether cache-aware masks beat what knows the future, at equal perplexity (Figure 11).

    The comparison is at the oracle's own points: there the cache-aware throughput is interpolated, which is the lower.
    """
    for (dram,), group in _grouped(points, "dram_bytes"):
        curves = dict(_grouped(group, "method", "policy", "gamma"))
        first = next((policy for (_, policy, gamma) in curves if gamma is not None), None)
        aware = [(method, gamma, of) for (method, policy, gamma), of in curves.items() if gamma and policy == first]
        for (method, policy, gamma), oracle in curves.items():
            own = [(g, of) for name, g, of in aware if name.removesuffix("-ca") == method]
            if get_policy(policy).online or gamma is not None or not own:
                continue
            best = [max((_speed_at(of, p.perplexity) or 0.0 for _, of in own)) / p.throughput for p in oracle if p.cost]
            ratios = [ratio for ratio in best if ratio]
            if ratios:
                above, gammas = sum(ratio > 1 for ratio in ratios), ", ".join(f"{g:g}" for g, _ in own)
                paper = _paper_on(policy, above, len(ratios))
                yield (
                    f"With {format_bytes(dram)} of DRAM, {method}-ca ({first}, the best gamma of {gammas}) has "
                    f"{_range(ratios)} times the throughput of {method} under {policy}, which knows the future, at "
                    f"equal perplexity: more at {above} of {len(ratios)} points, {paper}."
                )


def _paper_on(oracle: str, above: int, points: int) -> str:
    """What Figure 11 has to do with it."""
    if get_policy(oracle).protects_current_token:
        return f"{'as in' if above == points else 'where all are in'} the paper"
    return "where the oracle may read past the cache, which the paper's does not"


def _speed_at(points: Sequence[Point], perplexity: float | None) -> float | None:
    """Throughput of a curve at a perplexity, its time interpolated; None outside of it."""
    known = sorted((p.perplexity, 1 / p.throughput) for p in points if p.perplexity is not None and p.cost)
    for (low, slow), (high, fast) in pairwise(known):
        if perplexity is not None and low <= perplexity <= high:
            part = (perplexity - low) / (high - low) if high > low else 0.0
            return 1 / (slow + part * (fast - slow))
    return None


def _power(speeds: Iterable[tuple[float, float]]) -> float:
    """The slope of a line through the logarithms, by least squares."""
    logs = [(math.log(rate), math.log(speed)) for rate, speed in speeds]
    x, y = mean(a for a, _ in logs), mean(b for _, b in logs)
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


def _course(values: Sequence[float]) -> str:
    """What a series does."""
    rises = [after > before for before, after in pairwise(values)]
    if all(rises):
        return "grows"
    return "shrinks" if not any(rises) else "does not only grow"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values), 3), number(max(values), 3)
    return low if low == high else f"{low} to {high}"


def _grouped(items: Iterable[T], *names: str) -> list[tuple[tuple[Any, ...], list[T]]]:
    """Items with the same values of some fields, in the order of the first of each."""
    groups: dict[tuple[Any, ...], list[T]] = {}
    for item in items:
        groups.setdefault(tuple(getattr(item, name) for name in names), []).append(item)
    return list(groups.items())
