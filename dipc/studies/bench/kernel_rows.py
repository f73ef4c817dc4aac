"""The rows of the MLP contest: what was measured, set against the fastest dense product and the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dipc.studies.bench.candidates.mlp import MlpTask, case_name
from dipc.studies.bench.candidates.read_bandwidth import CASE as READ_CASE
from dipc.studies.bench.candidates.read_bandwidth import READ
from dipc.studies.bench.contest import CaseKey, Failure, Outcome
from dipc.studies.bench.timing import Ratio, Timing, speedup

PARTS = ("select", "gate+up", "down")

TOLERANCE = {"float32": 1e-2}
OTHER_TOLERANCE = 5e-2
"""Largest difference to the definitions, of the largest value: for 8-bit activations and units at the threshold."""

Answers = Mapping[str, tuple[float, ...]]
"""The right answers by case; empty where nothing could be checked."""


@dataclass(frozen=True)
class KernelRow:
    """One case of one candidate.

    Attributes:
        candidate: its name.
        part: "MLP", or the part of it that was measured alone.
        density: None for a dense product.
        timing: its times.
        speedup: how many times faster than the fastest dense baseline.
        roofline_share: bytes read per second, as a share of the memory's.
        mlp_share: of the time of the whole MLP at the same density, for a part.
        deviation: from dipc's definitions, relative to the largest value; None where nothing was compared.
    """

    candidate: str
    part: str
    density: float | None
    timing: Timing
    speedup: Ratio | None
    roofline_share: float | None
    mlp_share: float | None
    deviation: float | None


@dataclass(frozen=True)
class JudgedOutcome:
    """The outcome of a format's contest without its wrong answers.

    Attributes:
        task: of the contest.
        timings: by candidate and case.
        failures: who gave no figures, or wrong answers.
        expected: the right answers.
    """

    task: MlpTask
    timings: Mapping[CaseKey, Timing]
    failures: tuple[Failure, ...]
    expected: Answers

    @property
    def best_dense(self) -> CaseKey | None:
        """The fastest dense baseline."""
        dense = [key for key in self.timings if key[1] == case_name(None)]
        return min(dense, key=lambda key: self.timings[key].median_s, default=None)

    @property
    def roofline_bytes_per_s(self) -> float | None:
        """The memory's bandwidth."""
        read = self.timings.get((READ, READ_CASE))
        return None if read is None else read.bytes_per_s

    def rows(self) -> tuple[KernelRow, ...]:
        """Return a row for every case."""
        return tuple(self._row(key) for key in self.timings)

    def _row(self, key: CaseKey) -> KernelRow:
        timing, best, roofline = self.timings[key], self.best_dense, self.roofline_bytes_per_s
        part, density = _part_of(key[1], self.task)
        whole = self.timings.get((key[0], case_name(density)))
        return KernelRow(
            key[0],
            part,
            density,
            timing,
            speedup(timing, self.timings[best]) if part == "MLP" and best is not None else None,
            timing.bytes_per_s / roofline if roofline is not None and timing.bytes_read else None,
            timing.median_s / whole.median_s if part in PARTS and whole is not None else None,
            _deviation(timing, self.expected.get(key[1])),
        )


def judge(task: MlpTask, outcome: Outcome, expected: Answers) -> JudgedOutcome:
    """Take wrong answers out: a fast wrong answer is a failure."""
    timings, failures = {}, list(outcome.failures)
    most = TOLERANCE.get(task.format, OTHER_TOLERANCE)
    for key, timing in outcome.timings.items():
        deviation = _deviation(timing, expected.get(key[1]))
        if deviation is not None and not deviation <= most:
            reason = f"wrong: it deviates from the definition by {deviation:.2g} of the largest value"
            failures.append(Failure(*key, reason, False))
        else:
            timings[key] = timing
    return JudgedOutcome(task, timings, tuple(failures), expected)


def _deviation(timing: Timing, expected: tuple[float, ...] | None) -> float | None:
    if expected is None or timing.answer is None:
        return None
    pairs = zip(timing.answer, expected, strict=True)
    return max(abs(a - b) for a, b in pairs) / max(map(abs, expected))


def _part_of(case: str, task: MlpTask) -> tuple[str, float | None]:
    for density in (None, *task.densities):
        for part in ("MLP", *PARTS):
            if case == case_name(density, part):
                return part, density
    return case, None
