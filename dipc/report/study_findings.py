"""The findings of a study in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from dipc.quantities import format_bytes, number, share
from dipc.studies.engine.finding import Finding, Stated
from dipc.studies.study.findings import (
    PAPER_GAMMAS,
    PROPORTIONAL,
    BesideOracle,
    BestGammas,
    Course,
    DramCourse,
    EqualBytes,
    Fastest,
    FlashPower,
    ModelFits,
    PolicyGains,
)
from dipc.studies.study.result import Study

_COURSES: dict[Course, str] = {"grows": "grows", "shrinks": "shrinks", "mixed": "does not only grow"}


def study_sentences(found: Study) -> list[str]:
    """Return a sentence per finding."""
    return [sentence(finding) for finding in found.findings]


@singledispatch
def sentence(finding: Finding) -> str:
    """Return a finding in words."""
    raise TypeError(f"no sentence for {type(finding).__name__}")


@sentence.register
def _(finding: Stated) -> str:
    return finding.text


@sentence.register
def _(finding: Fastest) -> str:
    best, dram = finding.target, format_bytes(finding.dram_bytes)
    within = f"Within +{finding.max_ppl_increase:.4g} of the dense perplexity and {dram} of DRAM"
    if best is None:
        return f"{within}, no method is in reach."
    gamma = "" if best.gamma is None else f", gamma {best.gamma:g}"
    return (
        f"{within}, {best.method} at density {share(best.density)} ({best.policy}{gamma}) is the fastest: "
        f"{number(best.tokens_per_second)} tok/s, {number(best.speedup, 3)} times dense."
    )


@sentence.register
def _(finding: DramCourse) -> str:
    listed = ", ".join(f"{number(gain, 3)} at {format_bytes(dram)}" for dram, gain in finding.gains)
    how = f"{_COURSES[finding.course]} with DRAM{' until the model fits' if finding.until_it_fits else ''}"
    whose = f"{finding.method} ({finding.policy}) over dense within +{finding.max_ppl_increase:.4g}"
    return f"The gain of {whose} {how}: {listed}."


@sentence.register
def _(finding: ModelFits) -> str:
    return f"The whole model fits into {format_bytes(finding.dram_bytes)} of DRAM: dense reads no flash there."


@sentence.register
def _(finding: FlashPower) -> str:
    middle, least = finding.middle, finding.least
    what = "is proportional to" if abs(middle - 1) <= PROPORTIONAL else "grows more slowly than"
    slowest = "" if least > middle - PROPORTIONAL else f", at least {least:.2g}, where DRAM is the slower"
    power = f"it goes with its power {middle:.2f} (median{slowest})"
    return f"Throughput of {finding.method} {what} flash bandwidth: {power}."


@sentence.register
def _(finding: BestGammas) -> str:
    listed = ", ".join(f"{t.gamma:g} with {format_bytes(t.dram_bytes)}" for t in finding.targets)
    low, high = PAPER_GAMMAS
    paper = f"as in the paper ({low} to {high})" if finding.as_in_paper else f"where the paper finds {low} to {high}"
    whose = f"{finding.method} ({finding.policy}) within +{finding.max_ppl_increase:.4g}"
    return f"Of the gammas {', '.join(finding.tried)}, the best for {whose} is {listed} of DRAM, {paper}."


@sentence.register
def _(finding: EqualBytes) -> str:
    places = []
    for missed, values in finding.places:
        known = [(m, v) for m, v in zip(finding.methods, values, strict=True) if v is not None]
        listed = ", ".join(f"{method} {number(value)}" for method, value in sorted(known, key=lambda pair: pair[1]))
        places.append(f"at {missed:g} {listed}")
    where = f"With {format_bytes(finding.dram_bytes)} of DRAM"
    return f"{where}, perplexity by the share of the MLPs' bytes that is missed is {'; '.join(places)}."


@sentence.register
def _(finding: PolicyGains) -> str:
    gains = "; ".join(f"{policy} {_range(ratios)}" for policy, ratios in finding.ratios)
    place = f"With {format_bytes(finding.dram_bytes)} of DRAM"
    return f"{place}, {finding.method} has, in shares of its throughput under lfu: {gains}."


@sentence.register
def _(finding: BesideOracle) -> str:
    ratios, gammas = finding.ratios, ", ".join(f"{gamma:g}" for gamma in finding.gammas)
    above = sum(ratio > 1 for ratio in ratios)
    if finding.oracle_stays_within:
        paper = f"{'as in' if above == len(ratios) else 'where all are in'} the paper"
    else:
        paper = "where the oracle may read past the cache, which the paper's does not"
    whose = f"{finding.method} ({finding.policy}, the best gamma of {gammas})"
    return (
        f"With {format_bytes(finding.dram_bytes)} of DRAM, {whose} has {_range(ratios)} times the throughput of "
        f"{finding.unaware} under {finding.oracle}, which knows the future, at equal perplexity: more at {above} of "
        f"{len(ratios)} points, {paper}."
    )


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values), 3), number(max(values), 3)
    return low if low == high else f"{low} to {high}"
