"""`dipc bench replay`: how fast masks run through caches, beside numpy and libCacheSim; and the closed loop."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache import get_policy
from dipc.errors import UsageError
from dipc.ir.selections import kept_units
from dipc.registry import plugin_files
from dipc.studies.bench import cache_aware
from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.replay import (
    TOGETHER,
    ReplayTask,
    case_name,
    libcachesim_replay,
    native_replay,
    numpy_replay,
)
from dipc.studies.bench.contest import Failure, Outcome, Progress, Rules, run_interleaved
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import ReplayOptions
from dipc.studies.bench.timing import Ratio, Timing, speedup

NATIVE, NUMPY, LIBCACHESIM = "dipc", "dipc without its library", "libCacheSim"


@dataclass(frozen=True)
class ReplayRow:
    """One candidate's replay of one trace; times are for one token.

    Attributes:
        policy: or `TOGETHER`.
        density: share of the units that a token touches.
        candidate: who.
        timing: seconds for one token.
        caches: through which the trace ran at once.
        accesses_per_s: touched units, of all caches.
        hit_rate: hits by accesses.
        native_speedup: how many times faster `NATIVE` was at the same.
    """

    policy: str
    density: float
    candidate: str
    timing: Timing
    caches: int
    accesses_per_s: float
    hit_rate: float
    native_speedup: Ratio | None


@dataclass(frozen=True)
class ReplayBenchResult:
    """All rows and the closed loop's contest, with what they were measured on."""

    machine: Machine
    bench: ReplayBench
    rules: Rules
    rows: tuple[ReplayRow, ...]
    failures: tuple[Failure, ...]
    scan: Outcome


@dataclass(frozen=True)
class ReplayBench:
    """The contest of replays of one site.

    Attributes:
        units: of the site.
        tokens: of the trace that a call replays.
        densities: shares of the units that a token touches.
        policies: eviction policies; numpy takes part with the first alone, for it is slow.
        capacity: share of the units that fit.
        seed: of the masks.
    """

    units: int = ReplayOptions.units
    tokens: int = 1024
    densities: tuple[float, ...] = ReplayOptions.densities
    policies: tuple[str, ...] = ("lfu", "lru", "lfu-in-cache", "lfu-admission", "static", "belady")
    capacity: float = ReplayOptions.capacities[0]
    seed: int = ReplayOptions.seed

    def check(self) -> None:
        """Raise UsageError for what cannot be measured, before anything is set up."""
        for policy in self.policies:
            get_policy(policy)
        if self.units < 1 or self.tokens < 1:
            raise UsageError(f"a trace of {self.tokens} tokens and {self.units} units is empty")
        for share in (self.capacity, *self.densities):
            if not 0 < share <= 1:
                raise UsageError(f"{share:g} is no share of the units; densities and the capacity lie in (0, 1]")

    def active(self, density: float) -> int:
        """Return the number of units that a token touches."""
        return kept_units(density, self.units)

    def run(self, rules: Rules, progress: Progress = lambda done, total: None) -> ReplayBenchResult:
        """Let everybody replay the same traces in turns, on one core; then let the closed loop run beside torch's.

        Raises:
            UsageError: it cannot be measured.
        """
        self.check()
        machine = describe_machine()
        outcome = run_interleaved(self.candidates(), rules, progress)
        rows, failures = judge(outcome, self)
        scan = cache_aware.run_scan(self.seed, rules, progress)
        return ReplayBenchResult(machine, self, rules, rows, failures, scan)

    def candidates(self) -> list[Candidate]:
        """Return who takes part."""
        active = {f"{density:g}": self.active(density) for density in self.densities}
        task = ReplayTask(self.units, self.tokens, active, kept_units(self.capacity, self.units), self.seed)
        plugins = [str(file) for file in plugin_files()]
        return [
            Candidate.calling(NATIVE, native_replay, task=task, policies=self.policies, plugins=plugins),
            Candidate.calling(NUMPY, numpy_replay, task=task, policies=self.policies[:1], plugins=plugins),
            Candidate.calling(LIBCACHESIM, libcachesim_replay, task=task, policies=self.policies),
        ]


def judge(outcome: Outcome, bench: ReplayBench) -> tuple[tuple[ReplayRow, ...], tuple[Failure, ...]]:
    """Return a row for everybody who replayed a trace. Where our two paths do not hit alike, that is a failure."""
    rows, failures = [], list(outcome.failures)
    for density in bench.densities:
        for policy in (*bench.policies, TOGETHER):
            case = case_name(policy, f"{density:g}")
            native, numpy = outcome.timings.get((NATIVE, case)), outcome.timings.get((NUMPY, case))
            if native is not None and numpy is not None and native.answer != numpy.answer:
                failures.append(Failure(NATIVE, case, f"wrong: {native.answer} and not {numpy.answer}", False))
                continue
            for candidate in (NATIVE, NUMPY, LIBCACHESIM):
                timing = outcome.timings.get((candidate, case))
                if timing is None:
                    continue
                hits, caches = timing.answer or (0.0, 1.0)
                accesses = bench.active(density) * int(caches)
                rows.append(
                    ReplayRow(
                        policy,
                        density,
                        candidate,
                        timing,
                        caches=int(caches),
                        accesses_per_s=accesses / timing.median_s,
                        hit_rate=hits / (accesses * bench.tokens),
                        native_speedup=None if native is None else speedup(native, timing),
                    )
                )
    return tuple(rows), tuple(failures)
