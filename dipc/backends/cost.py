"""The cost backend: what a program would do on a device, from its memory traffic. Every figure is simulated.

A program is lowered to its traffic, the device's DRAM is shared out, and a trace of which units each token touched is
replayed under the eviction policy. The trace is recorded by running the program on text; a cache-aware program is run
with the capacity that this very device leaves it, because its masks depend on the cache (the closed loop). A program
without weights has no activity to record: it is replayed on what a model of activity draws, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipc.cache.policy import Policy, get_policy
from dipc.calibration.file import calibration_for
from dipc.errors import UnsupportedModel, UsageError
from dipc.evaluation.perplexity import Score, evaluate
from dipc.hardware.device import Device, device_for
from dipc.ir.program import Method, Program
from dipc.memory.flash import FlashReadOptions
from dipc.memory.lowering import cache_aware, capacities_text, lower, mean_bits, popularities, with_capacities
from dipc.memory.pricing import Case, Price, price, price_many
from dipc.memory.synthetic import ActivityModel, synthetic_trace
from dipc.memory.trace import Trace
from dipc.memory.traffic import TrafficProgram, allocate
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
    usual: Price | None
    """The sparse program with each missed unit a read of its own; None where nothing else was asked."""

    @property
    def speedup(self) -> float:
        """Throughput over the dense model's; 1 for a dense program."""
        return self.sparse.throughput / self.dense.throughput if self.sparse else 1.0


def estimate(
    program: Program,
    hardware: str | Device = "a18",
    *,
    dram: str | None = None,
    flash: str | None = None,
    policy: str | None = None,
    context: int | None = None,
    bits_per_weight: float | None = None,
    trace: Trace | None = None,
    activity: ActivityModel | None = None,
    text: Text | str | None = None,
    seq_len: int | None = None,
    max_tokens: int = 2048,
    warmup: int | None = None,
    seed: int = 0,
    reads: FlashReadOptions | None = None,
    calibration: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate tokens per second on a device.

    Args:
        program: with its MLPs outlined.
        hardware: a device's name, file, or the device.
        dram: DRAM for the model, such as "4 GB", or "50%" of the model's size; by default as the device's file says.
        flash: flash bandwidth, such as "1 GB/s", instead of the file's.
        policy: eviction policy; by default that of the program's cache-aware selection, else lfu.
        context: positions of KV cache in DRAM; by default the model's context, at most 2,048. The paper counts none.
        bits_per_weight: width of a stored weight, scales included; by default the checkpoint's. Weights that a pass
            quantised are priced by the bytes that they have.
        trace: replay this trace instead of running the program on text.
        activity: draw activity from this model instead of running the program; by default the one that comes with dipc,
            for programs without weights.
        text: what to run the program on; by default the sample that comes with dipc.
        seq_len: tokens of a window, as in `evaluate`.
        max_tokens: tokens to run; replaying more changes the estimate little.
        warmup: tokens that fill the cache before counting starts; by default a quarter of the trace.
        seed: of activity that is drawn.
        reads: how misses become reads; by default each missed unit is one.
        calibration: file with the units' popularity, for policies that rank by it (static); by default it is counted on
            the warm-up tokens.
        progress: called with windows done and in all, while the program runs on the text.

    Raises:
        UsageError: DRAM that cannot hold the resident part, a trace of another model, an unknown device or policy, or
            both a trace and a model of activity.
    """
    if trace is not None and activity is not None:
        raise UsageError("a trace is replayed as it is; give either a trace or a model of activity")
    context = program.info.usual_context if context is None else context
    if not program.mlps:
        raise UnsupportedModel(f"{program.info.name} has no outlined gated MLP to cache; `dipc explain` says why")
    traffic = lower(program, bits_per_weight)
    dense_traffic = lower(program.reference, bits_per_weight)
    device = device_for(hardware, dram, flash, dense_traffic.total_bytes)
    aware = cache_aware(program)
    name = policy or next((p for p, _ in aware.values()), "lfu")
    rule = get_policy(name)
    if aware and any(p != name for p, _ in aware.values()):
        raise UsageError(
            f"policy {name}: the program selects for {next(iter(aware.values()))[0]}; compile it with policy={name}"
        )
    reads = reads or FlashReadOptions()
    reads.check(device)
    popularity = _popularity(program, traffic, rule, calibration)
    room = allocate(dense_traffic, device.dram_available, context)
    dense = price(dense_traffic, room, device, rule, None, reads=reads)
    allocation = allocate(traffic, device.dram_available, context)
    score, source, used_seed, usual = None, "", None, None
    if all(site.full for site in traffic.sites):
        # Weights that were pruned for good are read by every token too, but there are fewer of them.
        sparse = None if program.dense is None else price(traffic, allocation, device, rule, None, reads=reads)
        source = "every weight is read for every token; no trace is needed"
    else:
        placed = with_capacities(program, allocation.capacities)
        if trace is not None:
            source = _check_trace(trace, placed)
        elif program.info.has_weights and activity is None:
            score = evaluate(placed, text, seq_len=seq_len, max_tokens=max_tokens, record=True, progress=progress)
            trace, source = score.trace, f"recorded on {score.text}" + (", closed loop" if aware else "")
        else:
            trace, used_seed = synthetic_trace(placed, seed, activity=activity), seed
            source = str(trace.meta["source"])
        assert trace is not None
        warm = trace.tokens // 4 if warmup is None else warmup
        ways = [reads] if reads == FlashReadOptions() else [reads, FlashReadOptions()]
        cases = [Case(allocation, device, rule, way) for way in ways]
        sparse, *others = price_many(traffic, cases, trace, warmup=warm, popularity=popularity)
        usual = next(iter(others), None)
    return Estimate(
        model=program.info.name,
        method=program.method,
        device=device,
        policy=name,
        context=context,
        bits_per_weight=mean_bits(program.reference, bits_per_weight),
        model_bytes=dense_traffic.total_bytes,
        source=source,
        seed=used_seed,
        dense=dense,
        sparse=sparse,
        score=score,
        reads=reads,
        usual=usual,
    )


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
    names = [site.name for site in traffic.sites if not site.full]
    measured = {name: found.popularity_counts(*name.rsplit(".", 1)).numpy() for name in names}
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
