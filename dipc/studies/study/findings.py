"""Findings of a study: the paper's observations, and whether this model has them too.

A finding is data; `dipc.report.study_findings` words it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any, Literal, TypeVar

from dipc.cache.policy import get_policy
from dipc.studies.engine.finding import Finding
from dipc.studies.method_rows import unaware_form
from dipc.studies.study.frontier import at_equal_bytes, frontier
from dipc.studies.study.method_grid import DENSE
from dipc.studies.study.result import Point, Study, Target

T = TypeVar("T")
PROPORTIONAL = 0.05
"""How far from 1 the power may be of what is called proportional."""
PAPER_GAMMAS = (0.1, 0.3)
"""The range of the paper's best gammas."""

Course = Literal["grows", "shrinks", "mixed"]


@dataclass(frozen=True)
class Fastest(Finding):
    """The fastest target within an increase and a DRAM; None where no method is in reach (Table 2)."""

    max_ppl_increase: float
    dram_bytes: int
    target: Target | None


@dataclass(frozen=True)
class DramCourse(Finding):
    """The course of a method's gain over dense with DRAM (Table 6).

    Attributes:
        gains: DRAM and gain.
        course: with DRAM; only of the sizes that do not hold the whole model, where `until_it_fits`.
    """

    method: str
    policy: str
    max_ppl_increase: float
    gains: tuple[tuple[int, float], ...]
    course: Course
    until_it_fits: bool


@dataclass(frozen=True)
class ModelFits(Finding):
    """The least DRAM with which the dense model reads no flash."""

    dram_bytes: int


@dataclass(frozen=True)
class FlashPower(Finding):
    """The power of flash bandwidth that a method's throughput goes with, the middle and the least (Table 7)."""

    method: str
    middle: float
    least: float


@dataclass(frozen=True)
class BestGammas(Finding):
    """The targets of a method's best gammas, one for each DRAM (Figure 10)."""

    method: str
    policy: str
    max_ppl_increase: float
    tried: tuple[str, ...]
    targets: tuple[Target, ...]
    as_in_paper: bool


@dataclass(frozen=True)
class EqualBytes(Finding):
    """The perplexities of methods where they miss as many bytes, each at its best density and gamma.

    Attributes:
        methods: those with a frontier.
        places: missed share of the MLPs' bytes, and each method's perplexity there; None where it has none.
    """

    dram_bytes: int
    methods: tuple[str, ...]
    places: tuple[tuple[float, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class PolicyGains(Finding):
    """The throughput of a method under other policies, in shares of that under lfu (Figure 11)."""

    dram_bytes: int
    method: str
    ratios: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class BesideOracle(Finding):
    """Cache-aware masks beside a policy that knows the future, at equal perplexity (Figure 11).

    Attributes:
        method: the cache-aware one, of the policy and gammas that follow.
        unaware: the same method without a cache, under the oracle.
        ratios: of the throughputs, at each of the oracle's points where both are known.
        oracle_stays_within: whether the oracle reads nothing past the cache, as the paper's.
    """

    dram_bytes: int
    method: str
    policy: str
    gammas: tuple[float, ...]
    unaware: str
    oracle: str
    ratios: tuple[float, ...]
    oracle_stays_within: bool


def findings(found: Study) -> Iterator[Finding]:
    """Yield a finding per claim that the points and targets allow.

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
        yield ModelFits(min(fits))
    yield from _by_flash(found.points)
    yield from _by_gamma(targets)
    yield from _at_equal_bytes(points)
    yield from _by_policy(points)
    yield from _beside_oracle(points)


def middle_flash(found: Study) -> float | None:
    """Return the middle one of the flash bandwidths that were asked for; None where it is the device's."""
    rates = sorted({p.flash_bytes_per_s for p in found.points if p.flash_bytes_per_s is not None})
    return rates[len(rates) // 2] if rates else None


def _best(targets: Sequence[Target]) -> Iterator[Finding]:
    for (increase, dram), group in _grouped(targets, "max_ppl_increase", "dram_bytes"):
        reached = [t for t in group if t.tokens_per_second and get_policy(t.policy).online]
        yield Fastest(increase, dram, max(reached, key=lambda t: t.tokens_per_second or 0.0, default=None))


def _by_dram(targets: Sequence[Target], fits: Collection[int]) -> Iterator[Finding]:
    """Yield how the gain over dense goes with DRAM; `fits` are the sizes that hold the whole model."""
    for (method, increase, policy), group in _grouped(targets, "method", "max_ppl_increase", "policy"):
        gains = sorted((t.dram_bytes, t.speedup) for t in group if t.speedup is not None)
        if len(gains) > 1:
            short = [gain for dram, gain in gains if dram not in fits]
            course = _course(short if len(short) > 1 else [gain for _, gain in gains])
            yield DramCourse(method, policy, increase, tuple(gains), course, len(short) not in (0, len(gains)))


def _by_flash(points: Sequence[Point]) -> Iterator[Finding]:
    powers: dict[str, list[float]] = {}
    for (method, *_), group in _grouped(points, "method", "density", "gamma", "policy", "dram_bytes"):
        speeds = [(p.flash_bytes_per_s, p.throughput) for p in group if p.flash_bytes_per_s and p.cost]
        if len({rate for rate, _ in speeds}) > 1:
            powers.setdefault(method, []).append(_power(speeds))
    yield from (FlashPower(method, median(found), min(found)) for method, found in powers.items())


def _by_gamma(targets: Sequence[Target]) -> Iterator[Finding]:
    low, high = PAPER_GAMMAS
    for (method, policy, increase), group in _grouped(targets, "method", "policy", "max_ppl_increase"):
        best = tuple(t for t in group if len(t.by_gamma) > 1 and t.gamma is not None and t.tokens_per_second)
        if best:
            agrees = all(low <= (t.gamma or 0) <= high for t in best)
            yield BestGammas(method, policy, increase, tuple(best[0].by_gamma), best, agrees)


def _at_equal_bytes(points: Sequence[Point]) -> Iterator[Finding]:
    """Yield how methods compare where one that follows the cache reads no more from flash than the others."""
    for (dram,), group in _grouped(points, "dram_bytes"):
        frontiers = {method: frontier(own) for (method,), own in _grouped(group, "method") if method != DENSE}
        found = at_equal_bytes(frontiers.values())
        if found:
            yield EqualBytes(dram, tuple(frontiers), tuple((share, tuple(v)) for share, v in found.items()))


def _by_policy(points: Sequence[Point]) -> Iterator[Finding]:
    for (method, dram, gamma), group in _grouped(points, "method", "dram_bytes", "gamma"):
        by_policy = {
            policy: {p.density: p.throughput for p in same if p.cost} for (policy,), same in _grouped(group, "policy")
        }
        base = by_policy.get("lfu")
        if base is None or gamma is not None:
            continue
        gains = []
        for policy, speeds in by_policy.items():
            ratios = tuple(speed / base[density] for density, speed in speeds.items() if density in base)
            if policy != "lfu" and ratios:
                gains.append((policy, ratios))
        if gains:
            yield PolicyGains(dram, method, tuple(gains))


def _beside_oracle(points: Sequence[Point]) -> Iterator[Finding]:
    """Yield whether cache-aware masks beat what knows the future, at equal perplexity.

    The comparison is at the oracle's own points: there the cache-aware throughput is interpolated, which is the lower.
    """
    for (dram,), group in _grouped(points, "dram_bytes"):
        curves = dict(_grouped(group, "method", "policy", "gamma"))
        first = next((policy for (_, policy, gamma) in curves if gamma is not None), None)
        aware = [(method, gamma, of) for (method, policy, gamma), of in curves.items() if gamma and policy == first]
        for (method, policy, gamma), oracle in curves.items():
            own = [(name, g, of) for name, g, of in aware if unaware_form(name) == method]
            if first is None or get_policy(policy).online or gamma is not None or not own:
                continue
            speeds = [(p, max((_speed_at(of, p.perplexity) or 0.0 for *_, of in own))) for p in oracle if p.cost]
            ratios = tuple(speed / p.throughput for p, speed in speeds if speed)
            if ratios:
                gammas = tuple(g for _, g, _ in own)
                yield BesideOracle(
                    dram, own[0][0], first, gammas, method, policy, ratios, get_policy(policy).protects_current_token
                )


def _speed_at(points: Sequence[Point], perplexity: float | None) -> float | None:
    """Return the throughput of a curve at a perplexity, its time interpolated; None outside of it."""
    known = sorted((p.perplexity, 1 / p.throughput) for p in points if p.perplexity is not None and p.cost)
    for (low, slow), (high, fast) in pairwise(known):
        if perplexity is not None and low <= perplexity <= high:
            part = (perplexity - low) / (high - low) if high > low else 0.0
            return 1 / (slow + part * (fast - slow))
    return None


def _power(speeds: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a straight line through the logarithms, by least squares."""
    logs = [(math.log(rate), math.log(speed)) for rate, speed in speeds]
    x, y = mean(a for a, _ in logs), mean(b for _, b in logs)
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


def _course(values: Sequence[float]) -> Course:
    rises = [after > before for before, after in pairwise(values)]
    if all(rises):
        return "grows"
    return "mixed" if any(rises) else "shrinks"


def _grouped(items: Iterable[T], *names: str) -> list[tuple[tuple[Any, ...], list[T]]]:
    """Return items with the same values of some fields, in the order of the first of each."""
    groups: dict[tuple[Any, ...], list[T]] = {}
    for item in items:
        groups.setdefault(tuple(getattr(item, name) for name in names), []).append(item)
    return list(groups.items())
