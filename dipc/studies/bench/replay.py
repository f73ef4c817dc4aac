"""`dipc bench replay`: how fast masks run through caches, beside numpy and libCacheSim; and the closed loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dipc.cache import get_policy
from dipc.errors import UsageError
from dipc.ir.selections import kept_units
from dipc.studies.bench import contest, machine
from dipc.studies.bench.contest import Failure, Measured, Outcome, Ratio, Rules
from dipc.studies.bench.kernels import hold_scan
from dipc.studies.bench.process import Contender
from dipc.studies.bench.replay_worker import TOGETHER, case_name

NATIVE, NUMPY, PEER = "dipc", "dipc without its library", "libCacheSim"
WORKER = "dipc.studies.bench.replay_worker"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        units: of the site.
        tokens: of the trace that a call replays.
        densities: shares of the units that a token touches.
        policies: eviction policies; numpy takes part with the first alone, for it is slow.
        capacity: share of the units that fit.
        seed: of the masks.
    """

    units: int = 4096
    tokens: int = 1024
    densities: tuple[float, ...] = (0.25, 0.5, 0.75)
    policies: tuple[str, ...] = ("lfu", "lru", "lfu-in-cache", "lfu-admission", "static", "belady")
    capacity: float = 0.5
    seed: int = 0

    def check(self) -> None:
        """UsageError for what cannot be measured, before anything is set up."""
        for policy in self.policies:
            get_policy(policy)
        if self.units < 1 or self.tokens < 1:
            raise UsageError(f"a trace of {self.tokens} tokens and {self.units} units is empty")
        for share in (self.capacity, *self.densities):
            if not 0 < share <= 1:
                raise UsageError(f"{share:g} is no share of the units; densities and the capacity lie in (0, 1]")

    def active(self, density: float) -> int:
        """Units that a token touches."""
        return kept_units(density, self.units)


@dataclass(frozen=True)
class Row:
    """One contender's replay of one trace; times are for one token.

    Attributes:
        policy: or `TOGETHER`.
        density: share of the units that a token touches.
        contender: who.
        measured: seconds for one token.
        caches: through which the trace ran at once.
        accesses_per_s: touched units, of all caches.
        hit_rate: hits by accesses.
        ratio: how many times faster `NATIVE` was at the same.
    """

    policy: str
    density: float
    contender: str
    measured: Measured
    caches: int
    accesses_per_s: float
    hit_rate: float
    ratio: Ratio | None


@dataclass(frozen=True)
class ReplayResult:
    """All rows and the closed loop's contest, with what they were measured on."""

    machine: machine.Machine
    settings: Settings
    rules: Rules
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    scan: Outcome


def bench_replay(settings: Settings, rules: Rules, progress: Progress = lambda done, total: None) -> ReplayResult:
    """Let everybody replay the same traces in turns, on one core; then let the closed loop run beside torch's.

    Raises:
        UsageError: the settings cannot be measured.
    """
    settings.check()
    where = machine.describe()
    traces = {f"{density:g}": settings.active(density) for density in settings.densities}
    arguments = {
        "units": settings.units,
        "tokens": settings.tokens,
        "active": traces,
        "capacity": kept_units(settings.capacity, settings.units),
        "policies": settings.policies,
        "seed": settings.seed,
    }
    contenders = [
        Contender(NATIVE, f"{WORKER}:native_replay", arguments),
        Contender(NUMPY, f"{WORKER}:numpy_replay", {**arguments, "policies": settings.policies[:1]}),
        Contender(PEER, f"{WORKER}:libcachesim_replay", arguments),
    ]
    outcome = contest.hold(contenders, rules, progress)
    rows, failures = _judged(outcome, settings)
    return ReplayResult(where, settings, rules, rows, failures, hold_scan(settings.seed, rules, progress))


def _judged(outcome: Outcome, settings: Settings) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    """A row for everybody who replayed a trace. Where our two paths do not hit alike, that is a failure."""
    rows, failures = [], list(outcome.failures)
    for density in settings.densities:
        for policy in (*settings.policies, TOGETHER):
            case = case_name(policy, f"{density:g}")
            native, numpy = outcome.measured.get((NATIVE, case)), outcome.measured.get((NUMPY, case))
            if native is not None and numpy is not None and native.answer != numpy.answer:
                failures.append(Failure(NATIVE, case, f"wrong: {native.answer} and not {numpy.answer}", False))
                continue
            for contender in (NATIVE, NUMPY, PEER):
                found = outcome.measured.get((contender, case))
                if found is not None:
                    ratio = None if native is None else contest.speedup(native, found)
                    rows.append(_row(policy, density, contender, found, ratio, settings))
    return tuple(rows), tuple(failures)


def _row(policy: str, density: float, contender: str, found: Measured, ratio: Ratio | None, settings: Settings) -> Row:
    hits, caches = found.answer or (0.0, 1.0)
    accesses = settings.active(density) * int(caches)
    hit_rate = hits / (accesses * settings.tokens)
    return Row(policy, density, contender, found, int(caches), accesses / found.median_s, hit_rate, ratio)
