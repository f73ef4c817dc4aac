"""`dipc bench kernels`: one gated MLP, dense and sparse, beside everybody else's dense one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.sparsity_pass import check_density
from dipc.studies.bench import contest, machine
from dipc.studies.bench.contest import Failure, Measured, Outcome, Ratio, Rules
from dipc.studies.bench.memory import CASE, READ
from dipc.studies.bench.mlp import BITS, FORMATS, Task, case_name
from dipc.studies.bench.process import Contender, Lost

AXES = {"inputs": 0, "outputs": 1}
DEFINITIONS = "definitions"
NATIVE_SCAN, TORCH_SCAN = "native scan", "torch loop"
SCAN_UNITS, SCAN_TOKENS = 4096, 32
PARTS = ("select", "gate+up", "down")

COLD = 4
"""Between two reads of a weight a call reads so many times the last-level cache of others."""
MOST_LAYERS = 16
MEMORY_SHARE = 1 / 16

TOLERANCE = {"float32": 1e-2}
OTHER_TOLERANCE = 5e-2
"""Largest difference to the definitions, of the largest value: for 8-bit activations and units at the threshold."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        d_model: inputs of the MLP.
        d_ff: its hidden values.
        densities: kept share of both.
        formats: of the weights.
        tokens: of one call; above 1 it is prefill, where dense and masked dense products are compared.
        group: weights that share a scale.
        axis: groups along the `inputs`, as GPTQ makes them, or along the `outputs`, that is along a unit.
        seed: of weights and inputs.
        layers: MLPs in one call, each with weights of its own; by default as many as it takes to defeat the caches.
    """

    d_model: int = 4096
    d_ff: int = 14336
    densities: tuple[float, ...] = (1.0, 0.5, 0.25)
    formats: tuple[str, ...] = ("float32", "int4")
    tokens: int = 1
    group: int = 128
    axis: str = "inputs"
    seed: int = 0
    layers: int | None = None

    def check(self) -> None:
        """UsageError for what cannot be measured."""
        for density in self.densities:
            check_density("bench kernels", "density", density)
        for format_ in self.formats:
            if format_ not in FORMATS:
                raise UnknownName("format", format_, FORMATS)
        if self.axis not in AXES:
            raise UnknownName("axis", self.axis, AXES)
        if self.group < 16 or self.group & (self.group - 1):
            raise UsageError(f"group is {self.group}; it must be a power of two of at least 16")
        for name, size in (("d-model", self.d_model), ("d-ff", self.d_ff)):
            if size < 16 or size % 2:
                raise UsageError(f"{name} is {size}; it must be an even number of at least 16")


@dataclass(frozen=True)
class Row:
    """One case of one contender.

    Attributes:
        contender: its name.
        part: "MLP", or the part of it that was measured alone.
        density: None for a dense product.
        measured: its times.
        ratio: how many times faster than the fastest dense peer.
        roof: bytes read per second, as a share of the memory's.
        share: of the time of the whole MLP at the same density, for a part.
        deviation: from dipc's definitions, relative to the largest value; None where nothing was compared.
    """

    contender: str
    part: str
    density: float | None
    measured: Measured
    ratio: Ratio | None
    roof: float | None
    share: float | None
    deviation: float | None


@dataclass(frozen=True)
class FormatResult:
    """One format's contest.

    Attributes:
        task: what was to be done.
        cold_bytes: what a call reads between two reads of one weight, at the lowest density.
        is_cold: they are more than the caches hold.
        roof_bytes_per_s: the memory's bandwidth, measured in the same contest, or None.
        best_dense: the fastest dense peer.
        rows: all cases.
        failures: who gave no figures, and why.
    """

    task: Task
    cold_bytes: float
    is_cold: bool
    roof_bytes_per_s: float | None
    best_dense: str | None
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class KernelsResult:
    """All contests, with what they were measured on. `scan` is the cache-aware selection's; None in prefill."""

    machine: machine.Machine
    settings: Settings
    rules: Rules
    formats: tuple[FormatResult, ...]
    scan: Outcome | None


def bench_kernels(
    settings: Settings, rules: Rules, progress: Progress = lambda what, done, total: None
) -> KernelsResult:
    """Run the contests, one per format, and then the scan's.

    Args:
        settings: what is measured.
        rules: how.
        progress: called with what is being done, the number of steps done and of all.

    Raises:
        UsageError: the settings cannot be measured.
    """
    settings.check()
    found = machine.describe()
    results = [_contest(_task(settings, f, rules, found), rules, found, progress) for f in settings.formats]
    scan = (
        None
        if settings.tokens > 1
        else hold_scan(settings.seed, rules, lambda done, total: progress("scan", done, total))
    )
    return KernelsResult(found, settings, rules, tuple(results), scan)


def _task(settings: Settings, format_: str, rules: Rules, where: machine.Machine) -> Task:
    task = Task(
        settings.d_model,
        settings.d_ff,
        format_,
        settings.densities,
        settings.tokens,
        1,
        rules.threads,
        settings.group,
        AXES[settings.axis],
        settings.seed,
    )
    layers = settings.layers or (1 if settings.tokens > 1 else _layers(task, where))
    return dataclasses.replace(task, layers=layers)


def _layers(task: Task, where: machine.Machine) -> int:
    """As many as it takes to read `COLD` times the cache, where memory allows it."""
    dense = _least_bytes(task, 1.0)
    wanted = math.ceil(COLD * (where.last_cache_bytes or 2**25) / _least_bytes(task, min(task.densities)))
    affordable = int((where.memory_bytes or 2**34) * MEMORY_SHARE / dense)
    return max(1, min(wanted, affordable, MOST_LAYERS))


def _least_bytes(task: Task, density: float) -> float:
    """What an MLP reads at a density, without scales."""
    bits = BITS.get(task.format) or (32 if task.format == "float32" else 16)
    return task.parameters * bits / 8 * density


def contenders(task: Task) -> list[Contender]:
    """Who takes part for a format."""
    arguments = dataclasses.asdict(task)
    read = {"size": int(_least_bytes(task, 1.0)), "repeats": task.layers, "threads": task.threads}

    def make(name: str, setup: str, **more: bool) -> Contender:
        return Contender(name, f"dipc.studies.bench.{setup}", {**arguments, **more})

    found = [] if task.tokens > 1 else [Contender(READ, "dipc.studies.bench.memory:memory", read)]
    if task.format in BITS:
        found.append(make("ONNX Runtime MatMulNBits", "peers:onnx_nbits"))
    else:
        found.append(make("torch linear", "peers:torch_dense"))
    if task.format == "float32":
        found.append(make("ONNX Runtime MatMul", "peers:onnx_matmul"))
    found.append(make("dipc in torch", "sparse:torch_packed"))
    found.append(make("dipc in ONNX Runtime", "sparse:onnx_packed", parts=task.tokens == 1))
    return found


def _contest(task: Task, rules: Rules, where: machine.Machine, progress: Progress) -> FormatResult:
    right, unchecked = _answers(task, rules)
    outcome = contest.hold(contenders(task), rules, lambda done, total: progress(task.format, done, total))
    measured, failures = _without_wrong(outcome, right, task)
    dense = {entry: m for entry, m in measured.items() if entry[1] == case_name(None)}
    best = min(dense, key=lambda entry: dense[entry].median_s, default=None)
    roof = measured.get((READ, CASE))
    rows = tuple(_row(entry, measured, right, None if best is None else dense[best], roof, task) for entry in measured)
    cold = _least_bytes(task, min(task.densities)) * task.layers
    is_cold = cold >= COLD / 2 * (where.last_cache_bytes or 2**25)
    bandwidth = None if roof is None else roof.bytes_per_s
    name = None if best is None else best[0]
    return FormatResult(task, cold, is_cold, bandwidth, name, rows, (*unchecked, *failures))


def _answers(task: Task, rules: Rules) -> tuple[Mapping[str, tuple[float, ...]], tuple[Failure, ...]]:
    """What is right, by case."""
    definitions = Contender(DEFINITIONS, "dipc.studies.bench.peers:definitions", dataclasses.asdict(task))
    try:
        return contest.answers(definitions, rules), ()
    except Lost as lost:
        return {}, (Failure(DEFINITIONS, None, f"no answer was checked: {lost}", False),)


def _without_wrong(
    outcome: Outcome, right: Mapping[str, tuple[float, ...]], task: Task
) -> tuple[dict[tuple[str, str], Measured], tuple[Failure, ...]]:
    """A fast wrong answer is a failure."""
    measured, failures = {}, list(outcome.failures)
    most = TOLERANCE.get(task.format, OTHER_TOLERANCE)
    for entry, found in outcome.measured.items():
        deviation = _deviation(found, right.get(entry[1]))
        if deviation is not None and not deviation <= most:
            reason = f"wrong: it deviates from the definition by {deviation:.2g} of the largest value"
            failures.append(Failure(*entry, reason, False))
        else:
            measured[entry] = found
    return measured, tuple(failures)


def _deviation(measured: Measured, right: tuple[float, ...] | None) -> float | None:
    if right is None or measured.answer is None:
        return None
    pairs = zip(measured.answer, right, strict=True)
    return max(abs(a - b) for a, b in pairs) / max(map(abs, right))


def _row(
    entry: tuple[str, str],
    measured: Mapping[tuple[str, str], Measured],
    right: Mapping[str, tuple[float, ...]],
    best: Measured | None,
    roof: Measured | None,
    task: Task,
) -> Row:
    found = measured[entry]
    part, density = _part_of(entry[1], task)
    is_whole = part == "MLP"
    whole = measured.get((entry[0], case_name(density)))
    return Row(
        entry[0],
        part,
        density,
        found,
        contest.speedup(found, best) if is_whole and best is not None else None,
        found.bytes_per_s / roof.bytes_per_s if roof is not None and found.bytes_read else None,
        found.median_s / whole.median_s if part in PARTS and whole is not None else None,
        _deviation(found, right.get(entry[1])),
    )


def _part_of(case: str, task: Task) -> tuple[str, float | None]:
    for density in (None, *task.densities):
        for part in ("MLP", *PARTS):
            if case == case_name(density, part):
                return part, density
    return case, None


def hold_scan(seed: int, rules: Rules, progress: Callable[[int, int], None]) -> Outcome:
    """The contest of the cache-aware selection: the native scan and the loop of torch calls."""
    arguments = {"units": SCAN_UNITS, "tokens": SCAN_TOKENS, "seed": seed, "threads": rules.threads}
    both = [
        Contender(NATIVE_SCAN, "dipc.studies.bench.scan:native_scan", arguments),
        Contender(TORCH_SCAN, "dipc.studies.bench.scan:torch_scan", arguments),
    ]
    return contest.hold(both, rules, progress)
