"""Estimate what a program would do on a device: find the activity, then let a backend price it. All is simulated.

The trace of which units each token touched is recorded by running the program on text; a cache-aware program is run
with the capacity that this very device leaves it, because its masks depend on the cache (the closed loop). A program
without weights has no activity to record: it is priced on what a model of activity draws, and the result says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipc.backends import get_backend
from dipc.cache.policy import Policy, get_policy
from dipc.calibration.file import calibration_for
from dipc.errors import UnsupportedModel, UsageError
from dipc.evaluation.perplexity import Score, evaluate
from dipc.hardware.device import Device
from dipc.hardware.find import device_for
from dipc.ir.program import Method, Program
from dipc.ir.selections import cache_aware, capacities_text, popularities, with_capacities
from dipc.memory.allocation import allocate
from dipc.memory.budget import MemoryBudget
from dipc.memory.flash import FlashReadOptions
from dipc.memory.lowering import lower, mean_bits
from dipc.memory.price import Case, Price
from dipc.memory.synthetic import ActivityModel, synthetic_trace
from dipc.memory.trace import Trace
from dipc.memory.traffic import TrafficProgram
from dipc.options import Options, TextSpec
from dipc.text import Text


@dataclass(frozen=True)
class Estimate:
    """A simulated result with all it depends on: the program's price beside the dense model's on the same device."""

    model: str
    method: Method
    device: Device
    policy: str
    context: int
    bits_per_weight: float
    model_bytes: float
    source: str
    seed: int | None
    dense: Price
    sparse: Price | None
    score: Score | None
    reads: FlashReadOptions
    """How misses become reads, as asked."""
    baseline: Price | None
    """The sparse program with each missed unit a read of its own; None where nothing else was asked."""

    @property
    def speedup(self) -> float:
        """Throughput over the dense model's; 1 for a dense program."""
        return self.sparse.throughput / self.dense.throughput if self.sparse else 1.0


@dataclass(frozen=True)
class ActivityOptions(Options):
    """Where the activity comes from that is priced; by default it is recorded on text."""

    trace: Trace | None = None
    """Replay this trace instead of running the program on text."""
    activity: ActivityModel | None = None
    """Draw activity from this model instead of running the program; by default the one that comes with dipc, for
    programs without weights."""
    text: Text | str | None = None
    """The text that the program is run on; by default the sample that comes with dipc."""
    warmup: int | None = None
    """Tokens that fill the cache before counting starts; by default a quarter of the trace."""
    seed: int = 0
    """Seed of activity that is drawn."""
    calibration: str | Path | None = None
    """File with the units' popularity, for policies that rank by it (static); by default it is counted on the warm-up
    tokens."""

    def __post_init__(self) -> None:
        if self.trace is not None and self.activity is not None:
            raise UsageError("a trace is replayed as it is; give either a trace or a model of activity")


@dataclass(frozen=True)
class _Setting:
    """A device as it was asked for, with what holds for the program and the dense one alike."""

    device: Device
    policy: Policy
    context: int
    reads: FlashReadOptions

    def case(self, traffic: TrafficProgram, reads: FlashReadOptions | None = None) -> Case:
        """Return the case of a program: its share of the DRAM first. UsageError where it does not fit."""
        room = allocate(traffic, self.device.dram_available, self.context)
        return Case(room, self.device, self.policy, self.reads if reads is None else reads)


def estimate(
    program: Program,
    hardware: str | Device = "a18",
    *,
    budget: MemoryBudget = MemoryBudget(),
    source: ActivityOptions = ActivityOptions(),
    windows: TextSpec = TextSpec(max_tokens=2048),
    reads: FlashReadOptions = FlashReadOptions(),
    backend: str = "cost",
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate tokens per second on a device.

    Args:
        program: with its MLPs outlined.
        hardware: a device's name, file, or the device.
        budget: the memory that the program gets, and how it is kept.
        source: where the activity comes from that is priced.
        windows: how much of the text is run; replaying more than 2,048 tokens changes the estimate little.
        reads: how misses become reads; by default each missed unit is one.
        backend: what prices the traffic.
        progress: called with windows done and in all, while the program runs on the text.

    Raises:
        UsageError: DRAM that cannot hold the resident part, a trace of another model, an unknown device or policy.
        UnsupportedModel: no outlined MLP.
    """
    _check_outlined(program)
    pricing = get_backend(backend, "price")
    traffic, dense_traffic = (lower(p, budget.bits_per_weight) for p in (program, program.reference))
    setting = _setting(program, hardware, budget, reads, dense_traffic.total_bytes)
    popularity = _popularity(program, traffic, setting.policy, source.calibration)
    (dense,) = pricing.price(dense_traffic, [setting.case(dense_traffic)], None)
    case = setting.case(traffic)
    baseline = None
    if all(site.full for site in traffic.sites):
        found = _Activity(source="every weight is read for every token; no trace is needed")
        # Weights that were pruned for good are read by every token too, but there are fewer of them.
        sparse = None if program.dense is None else pricing.price(traffic, [case], None)[0]
    else:
        found = _activity(with_capacities(program, case.allocation.capacities), source, windows, progress)
        cases = [case] if reads == FlashReadOptions() else [case, setting.case(traffic, FlashReadOptions())]
        sparse, *others = pricing.price(traffic, cases, found.trace, warmup=found.warmup, popularity=popularity)
        baseline = next(iter(others), None)
    return Estimate(
        model=program.info.name,
        method=program.method,
        device=setting.device,
        policy=setting.policy.name,
        context=setting.context,
        bits_per_weight=mean_bits(program.reference, budget.bits_per_weight),
        model_bytes=dense_traffic.total_bytes,
        source=found.source,
        seed=found.seed,
        dense=dense,
        sparse=sparse,
        score=found.score,
        reads=reads,
        baseline=baseline,
    )


def _check_outlined(program: Program) -> None:
    if not program.mlps:
        raise UnsupportedModel(f"{program.info.name} has no outlined gated MLP to cache; `dipc explain` says why")


def _setting(
    program: Program, hardware: str | Device, budget: MemoryBudget, reads: FlashReadOptions, model_bytes: float
) -> _Setting:
    """Return what the program is priced on. UsageError where the parts do not fit each other."""
    device = device_for(hardware, budget.dram, budget.flash, model_bytes)
    policies = {policy for policy, _ in cache_aware(program).values()}
    name = budget.policy or next((p for p, _ in cache_aware(program).values()), "lfu")
    policy = get_policy(name)
    if policies - {name}:
        own = next(iter(cache_aware(program).values()))[0]
        raise UsageError(f"policy {name}: the program selects for {own}; compile it with policy={name}")
    reads.check(device)
    context = program.info.usual_context if budget.context is None else budget.context
    return _Setting(device, policy, context, reads)


@dataclass(frozen=True)
class _Activity:
    """The activity that was found, and what it comes from."""

    trace: Trace | None = None
    source: str = ""
    score: Score | None = None
    seed: int | None = None
    warmup: int = 0


def _activity(
    placed: Program, given: ActivityOptions, windows: TextSpec, progress: Callable[[int, int], None] | None
) -> _Activity:
    """Take the trace that is given, record one where there are weights, or draw one."""
    if given.trace is not None:
        found = _Activity(given.trace, _check_trace(given.trace, placed))
    elif placed.info.has_weights and given.activity is None:
        score = evaluate(placed, given.text, windows=windows, record=True, progress=progress)
        source = f"recorded on {score.text}" + (", closed loop" if cache_aware(placed) else "")
        found = _Activity(score.trace, source, score)
    else:
        trace = synthetic_trace(placed, given.seed, activity=given.activity)
        found = _Activity(trace, str(trace.meta["source"]), seed=given.seed)
    assert found.trace is not None
    warmup = found.trace.tokens // 4 if given.warmup is None else given.warmup
    return dataclasses.replace(found, warmup=warmup)


def _popularity(
    program: Program, traffic: TrafficProgram, policy: Policy, calibration: str | Path | None
) -> dict[str, npt.NDArray[np.int64]] | None:
    """int64 [U] by site: what the program selects by, else what the calibration says; None where nothing does."""
    if policy.counts:
        if calibration is not None:
            raise UsageError(f"calibration: the policy {policy.name} does not rank by popularity; leave it out")
        return None
    if calibration is None:
        return popularities(program) or None
    found = calibration_for(calibration, program)
    ids = {site.name: site.id for site in traffic.sites if not site.full}
    measured = {name: found.popularity_counts(site.prefix, site.place).numpy() for name, site in ids.items()}
    return measured | popularities(program)


def _check_trace(trace: Trace, program: Program) -> str:
    digest = trace.meta.get("digest")
    if digest not in (None, program.info.digest):
        raise UsageError(
            f"the trace is of another model ({trace.meta.get('model')}, {digest}), not {program.info.digest}"
        )
    if trace.meta.get("method", program.method.options) != program.method.options:
        raise UsageError(f"the trace is of {trace.meta['method']}, and the program is {program.method.options}")
    now = capacities_text(program)
    same = trace.meta.get("capacities", now) == now
    made = str(trace.meta.get("source", ""))
    given = f"{made}; a given trace" if made.startswith("synthetic") else "a given trace"
    return given + ("" if same else ", selected at another cache capacity (not a closed loop)")
