"""`plan`: which method, density and gamma to use on a device, and what to expect of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.hardware.find import device_for
from dipc.ir.program import Program
from dipc.memory.budget import MemoryBudget
from dipc.memory.flash import FlashReadOptions
from dipc.pipeline.text import parse_pipeline, pipeline_text
from dipc.quantities import format_bandwidth, format_bytes, number, parse_bytes
from dipc.studies.engine.scheduler import Progress
from dipc.studies.method_rows import choose
from dipc.studies.options import ActivityMeasure, DeviceGrid, PlanBudget, PlanChoices, StudyRuns, StudySearch
from dipc.studies.study.method_grid import DENSE
from dipc.studies.study.result import Point, Study
from dipc.studies.study.spec import increase
from dipc.studies.study.study import run_study

MORE = 2
"""Factor by which it is tried what would help: so many times the DRAM, and so many times the flash bandwidth."""


@dataclass(frozen=True)
class Help:
    """The chosen program on another device; `what` says which."""

    what: str
    point: Point


@dataclass(frozen=True)
class Plan:
    """The choice for a device. Every figure of it is of a measured point, and simulated.

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
    budget: MemoryBudget = PlanBudget(),
    choices: PlanChoices = PlanChoices(),
    reads: FlashReadOptions = FlashReadOptions(),
    measured: ActivityMeasure = ActivityMeasure(max_tokens=8192),
    runs: StudyRuns = StudyRuns(),
    progress: Progress | None = None,
    **capture_options: Any,
) -> Plan:
    """Find what to compile a model with for a device.

    Args:
        model: the dense model, with weights.
        hardware: a device's name, file, or the device.
        budget: of the device's memory, and the policy of the weight cache.
        choices: methods, densities and gammas, and the perplexity to keep within.
        reads: how missed units are read from flash.
        measured: what programs are measured on.
        runs: where runs are made, and kept.
        progress: as for `run_study`.
        **capture_options: for `capture`.

    Raises:
        UsageError: what `run_study` raises, or a model without weights.
    """
    policy = budget.policy or "lfu"
    if not get_policy(policy).online:
        raise UsageError(f"policy {policy} knows the future, which no device does; choose one such as lfu")
    allowed = increase(choices.max_ppl_increase)
    devices = _devices(hardware, budget, policy, reads)
    search = StudySearch(choices.gammas, (choices.max_ppl_increase,), choices.step)
    with ExitStack() as stack:
        out = runs.out or stack.enter_context(tempfile.TemporaryDirectory(prefix="dipc-plan-"))
        study: Callable[..., Study] = partial(
            run_study,
            model,
            measured=measured,
            runs=dataclasses.replace(runs, out=out),
            progress=progress,
            **capture_options,
        )
        found = study(choices.methods, choices.densities, devices=devices, search=search)
        assert found.dense_perplexity is not None
        limit = allowed.of(found.dense_perplexity)
        dense, *others = found.points
        best = tuple(_best(others, found.dense_perplexity + limit))
        choice = max(best, key=lambda point: point.throughput, default=None)
        reason = _why_dense(found, choice, dense, limit)
        if reason is not None:
            return Plan(found, limit, None, None, dense, best, (), reason)
        assert choice is not None
        help = tuple(_help(study, choices.methods, choice, devices, found))
    passes = _placed(choice, hardware, budget)
    return Plan(found, limit, choice, passes, dense, best, help, None)


def _devices(hardware: str | Device, budget: MemoryBudget, policy: str, reads: FlashReadOptions) -> DeviceGrid:
    """Return the one device of the plan, as a study takes it."""
    return DeviceGrid(
        hardware,
        policies=(policy,),
        dram=() if budget.dram is None else (budget.dram,),
        flash=() if budget.flash is None else (budget.flash,),
        context=budget.context,
        bits_per_weight=budget.bits_per_weight,
        reads=reads,
    )


def _best(points: Sequence[Point], limit: float) -> Iterator[Point]:
    """Yield, of each method, the fastest measured point within the limit."""
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
    study: Callable[..., Study],
    methods: str | Sequence[str],
    choice: Point,
    devices: DeviceGrid,
    found: Study,
) -> Iterator[Help]:
    """Yield the choice with more DRAM, and with faster flash: what follows a cache is run anew for it."""
    template = next(row.template for row in choose(methods, [choice.density]) if row.label == choice.method)
    search = StudySearch((1.0 if choice.gamma is None else choice.gamma,), step=0)
    device = device_for(devices.hardware, None, next(iter(devices.flash), None), 0)
    for what, other in _better(device.with_dram_available(choice.dram_bytes), found.model["bytes"]):
        there = dataclasses.replace(devices, hardware=other, dram=(), flash=())
        again = study([template], [choice.density], devices=there, search=search)
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


def _placed(choice: Point, hardware: str | Device, budget: MemoryBudget) -> str:
    """Return the pipeline with the device in it, where a pass wants to know how much its cache holds."""
    options: dict[str, Any] = {"hw": hardware.name if isinstance(hardware, Device) else str(hardware)}
    options |= {} if budget.dram is None else {"dram": _exact(choice.dram_bytes)}
    options |= {"context": budget.context, "bits_per_weight": budget.bits_per_weight}
    passes = parse_pipeline(choice.pipeline)
    return pipeline_text(dataclasses.replace(p, **options) if p.cache_aware else p for p in passes)


def _exact(size_bytes: int) -> str:
    """`4 GB` where that says all, else every byte."""
    text = format_bytes(size_bytes)
    return text if parse_bytes(text) == size_bytes else f"{size_bytes} B"
