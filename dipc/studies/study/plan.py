"""`plan`: which method, density and gamma to use on a device, and what to expect of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.hardware.find import device_for
from dipc.ir.program import Program
from dipc.pipeline.text import parse_pipeline, pipeline_text
from dipc.quantities import format_bandwidth, format_bytes, number, parse_bytes
from dipc.studies.compare.entries import choose
from dipc.studies.study.asked import increase
from dipc.studies.study.making import Progress
from dipc.studies.study.result import Point, Study
from dipc.studies.study.study import run_study
from dipc.studies.study.variants import DENSE, follows_cache

MORE = 2
"""What would help is tried with so many times the DRAM, and so many times the flash bandwidth."""


@dataclass(frozen=True)
class Help:
    """What the chosen program would do on another device; `what` says which."""

    what: str
    point: Point


@dataclass(frozen=True)
class Plan:
    """What to use on a device. Every figure of it is of a measured point, and simulated.

    Attributes:
        study: that it rests on.
        max_ppl_increase: that was allowed, in perplexity.
        choice: the fastest point within it; None where the dense model is.
        passes: what to compile with; None for the dense model.
        dense: the dense model on the same device.
        best: the fastest point of each method within the limit.
        help: the choice with more DRAM and with faster flash.
        reason: why the dense model is the choice, where it is.
    """

    study: Study
    max_ppl_increase: float
    choice: Point | None
    passes: str | None
    dense: Point
    best: tuple[Point, ...]
    help: tuple[Help, ...]
    reason: str | None


def plan(
    model: Program | str | Path,
    hardware: str | Device = "a18",
    *,
    dram: str | None = None,
    flash: str | None = None,
    max_ppl_increase: str | float = "5%",
    methods: str | Sequence[str] = "dip,dip-ca",
    densities: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
    gammas: Sequence[float] = (0.1, 0.2, 0.5),
    policy: str = "lfu",
    out: str | Path | None = None,
    context: int | None = None,
    bits_per_weight: float | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Find what to compile a model with for a device.

    Args:
        model: the dense model, with weights.
        hardware: a device's name, file, or the device.
        dram: such as "4 GB" or "50%" of the model; by default what the device has.
        flash: bandwidth such as "1 GB/s"; by default the device's.
        max_ppl_increase: perplexity over the dense model's: 0.2, or a share of it, "5%".
        methods: to choose from.
        densities: to begin with; between them it searches.
        gammas: to choose from, for cache-aware methods.
        policy: of the weight cache.
        out: a folder that keeps all runs; by default nothing is kept.
        context: positions of KV cache.
        bits_per_weight: width of a stored weight, scales included; by default the checkpoint's.
        progress: as for `run_study`.
        **options: further ones of `run_study`: text, seq_len, max_tokens, step, jobs, cluster, calibration ...

    Raises:
        UsageError: what `run_study` raises, or a model without weights.
    """
    if not get_policy(policy).online:
        raise UsageError(f"policy {policy} knows the future, which no device does; choose one such as lfu")
    allowed = increase(max_ppl_increase)
    shared: dict[str, Any] = {"context": context, "bits_per_weight": bits_per_weight, "policies": [policy], **options}
    with ExitStack() as stack:
        folder = out or stack.enter_context(tempfile.TemporaryDirectory(prefix="dipc-plan-"))
        found = run_study(
            model,
            methods,
            densities,
            gammas=gammas,
            hardware=hardware,
            dram=[] if dram is None else [dram],
            flash=[] if flash is None else [flash],
            max_ppl_increase=[max_ppl_increase],
            out=folder,
            progress=progress,
            **shared,
        )
        assert found.dense_perplexity is not None
        limit = allowed.of(found.dense_perplexity)
        dense, *others = found.points
        best = tuple(_best(others, found.dense_perplexity + limit))
        choice = max(best, key=lambda point: point.throughput, default=None)
        reason = _why_dense(found, choice, dense, limit)
        if reason is not None:
            return Plan(found, limit, None, None, dense, best, (), reason)
        assert choice is not None
        device = device_for(hardware, None, flash, 0).with_dram_available(choice.dram_bytes)
        again = {**shared, "out": folder, "progress": progress, "step": 0}
        help = tuple(_help(model, methods, choice, device, found, again))
    passes = _placed(choice.pipeline, hardware, None if dram is None else choice.dram_bytes, context, bits_per_weight)
    return Plan(found, limit, choice, passes, dense, best, help, None)


def _best(points: Sequence[Point], limit: float) -> Iterator[Point]:
    """Of each method the fastest measured point within the limit."""
    for method in dict.fromkeys(point.method for point in points):
        within = [p for p in points if p.method == method and p.cost and p.perplexity and p.perplexity <= limit]
        if within:
            yield max(within, key=lambda point: point.throughput)


def _why_dense(found: Study, choice: Point | None, dense: Point, limit: float) -> str | None:
    if choice is None:
        reasons = {target.reason for target in found.targets} - {None}
        why = f": {'; '.join(sorted(map(str, reasons)))}" if reasons else ""
        return f"nothing keeps within +{number(limit)}{why}"
    if choice.throughput <= dense.throughput:
        return f"the fastest within +{number(limit)}, {choice.pipeline}, is no faster than dense on this device"
    return None


def _help(
    model: Program | str | Path,
    methods: str | Sequence[str],
    choice: Point,
    device: Device,
    found: Study,
    options: Mapping[str, Any],
) -> Iterator[Help]:
    """The choice with more DRAM, and with faster flash: what follows a cache is run anew for it."""
    template = next(entry.template for entry in choose(methods, [choice.density]) if entry.label == choice.method)
    gammas = [1.0 if choice.gamma is None else choice.gamma]
    for what, other in _better(device, found.model["bytes"]):
        again = run_study(model, [template], [choice.density], gammas=gammas, hardware=other, **options)
        point = next((p for p in again.points if p.method != DENSE and p.cost), None)
        if point is not None:
            yield Help(what, point)


def _better(device: Device, model_bytes: float) -> Iterator[tuple[str, Device]]:
    more = min(MORE * device.dram_available, device.dram.capacity.value)
    if device.dram_available < min(more, model_bytes):
        yield f"{format_bytes(more)} of DRAM", device.with_dram_available(more)
    curve = tuple(
        dataclasses.replace(p, bandwidth=dataclasses.replace(p.bandwidth, value=MORE * p.bandwidth.value))
        for p in device.flash.curve
    )
    faster = dataclasses.replace(device, flash=dataclasses.replace(device.flash, curve=curve))
    yield f"flash of {format_bandwidth(curve[-1].bandwidth.value)}", faster


def _placed(
    pipeline: str, hardware: str | Device, dram_bytes: int | None, context: int | None, bits_per_weight: float | None
) -> str:
    """The pipeline with the device in it, where a pass wants to know how much its cache holds."""
    options: dict[str, Any] = {"hw": hardware.name if isinstance(hardware, Device) else str(hardware)}
    options |= {} if dram_bytes is None else {"dram": _exact(dram_bytes)}
    options |= {"context": context, "bits_per_weight": bits_per_weight}
    passes = parse_pipeline(pipeline)
    return pipeline_text(dataclasses.replace(p, **options) if follows_cache(p) else p for p in passes)


def _exact(size_bytes: int) -> str:
    """`4 GB` where that says all, else every byte."""
    text = format_bytes(size_bytes)
    return text if parse_bytes(text) == size_bytes else f"{size_bytes} B"
