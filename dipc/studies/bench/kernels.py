"""`dipc bench kernels`: one gated MLP, dense and sparse, beside everybody else's dense one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.sparsity_pass import check_density
from dipc.studies.bench import cache_aware
from dipc.studies.bench.candidate import Candidate, CandidateLost
from dipc.studies.bench.candidates import baselines, sparse_mlp
from dipc.studies.bench.candidates.mlp import BITS, FORMATS, MlpTask
from dipc.studies.bench.candidates.read_bandwidth import READ, read_memory
from dipc.studies.bench.contest import Failure, Outcome, Progress, Rules, run_interleaved, untimed_answers
from dipc.studies.bench.kernel_rows import Answers, KernelRow, judge
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import KernelOptions

AXES = {"inputs": 0, "outputs": 1}
DEFINITIONS = "definitions"

COLD = 4
"""Between two reads of a weight a call reads so many times the last-level cache of others."""
MOST_LAYERS = 16
MEMORY_SHARE = 1 / 16


@dataclass(frozen=True)
class FormatResult:
    """One format's contest.

    Attributes:
        task: the work of its candidates.
        cold_bytes: what a call reads between two reads of one weight, at the lowest density.
        is_cold: they are more than the caches hold.
        roofline_bytes_per_s: the memory's bandwidth, measured in the same contest, or None.
        best_dense: the fastest dense baseline.
        rows: all cases.
        failures: who gave no figures, and why.
    """

    task: MlpTask
    cold_bytes: float
    is_cold: bool
    roofline_bytes_per_s: float | None
    best_dense: str | None
    rows: tuple[KernelRow, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class KernelBenchResult:
    """All contests, with what they were measured on. `scan` is the cache-aware selection's; None in prefill."""

    machine: Machine
    bench: KernelBench
    rules: Rules
    formats: tuple[FormatResult, ...]
    scan: Outcome | None


@dataclass(frozen=True)
class KernelBench(KernelOptions):
    """The contest of one gated MLP, in each format.

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

    layers: int | None = None

    def check(self) -> None:
        """Raise UsageError for what cannot be measured."""
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

    def run(self, rules: Rules, progress: Progress = lambda done, total: None) -> KernelBenchResult:
        """Run the contests, one per format, and then the scan's.

        Raises:
            UsageError: it cannot be measured.
        """
        self.check()
        machine = describe_machine()
        formats = [_run_format(self.task(f, rules, machine), rules, machine, progress) for f in self.formats]
        scan = None if self.tokens > 1 else cache_aware.run_scan(self.seed, rules, progress)
        return KernelBenchResult(machine, self, rules, tuple(formats), scan)

    def task(self, format_: str, rules: Rules, machine: Machine) -> MlpTask:
        """Return the work of a format's candidates."""
        task = MlpTask(
            self.d_model,
            self.d_ff,
            format_,
            self.densities,
            self.tokens,
            1,
            rules.threads,
            self.group,
            AXES[self.axis],
            self.seed,
        )
        layers = self.layers or (1 if self.tokens > 1 else _cold_layers(task, machine))
        return dataclasses.replace(task, layers=layers)


def candidates_of(task: MlpTask) -> list[Candidate]:
    """Return who takes part for a format."""
    found = []
    if task.tokens == 1:
        size = int(_least_bytes(task, 1.0))
        found.append(Candidate.calling(READ, read_memory, size=size, repeats=task.layers, threads=task.threads))
    if task.format in BITS:
        found.append(Candidate.calling("ONNX Runtime MatMulNBits", baselines.onnx_nbits, task=task))
    else:
        found.append(Candidate.calling("torch linear", baselines.torch_dense, task=task))
    if task.format == "float32":
        found.append(Candidate.calling("ONNX Runtime MatMul", baselines.onnx_matmul, task=task))
    found.append(Candidate.calling("dipc in torch", sparse_mlp.torch_packed, task=task))
    parts = task.tokens == 1
    found.append(Candidate.calling("dipc in ONNX Runtime", sparse_mlp.onnx_packed, task=task, parts=parts))
    return found


def _run_format(task: MlpTask, rules: Rules, machine: Machine, progress: Progress) -> FormatResult:
    expected, unchecked = _expected(task, rules)
    judged = judge(task, run_interleaved(candidates_of(task), rules, progress), expected)
    cold = _least_bytes(task, min(task.densities)) * task.layers
    return FormatResult(
        task,
        cold_bytes=cold,
        is_cold=cold >= COLD / 2 * (machine.last_cache_bytes or 2**25),
        roofline_bytes_per_s=judged.roofline_bytes_per_s,
        best_dense=None if judged.best_dense is None else judged.best_dense[0],
        rows=judged.rows(),
        failures=(*unchecked, *judged.failures),
    )


def _expected(task: MlpTask, rules: Rules) -> tuple[Answers, tuple[Failure, ...]]:
    """Return the right answers by case, or why there are none."""
    try:
        return untimed_answers(Candidate.calling(DEFINITIONS, baselines.definitions, task=task), rules), ()
    except CandidateLost as lost:
        return {}, (Failure(DEFINITIONS, None, f"no answer was checked: {lost}", False),)


def _cold_layers(task: MlpTask, machine: Machine) -> int:
    """Return how many MLPs it takes to read `COLD` times the cache, where memory allows it."""
    dense = _least_bytes(task, 1.0)
    wanted = math.ceil(COLD * (machine.last_cache_bytes or 2**25) / _least_bytes(task, min(task.densities)))
    affordable = int((machine.memory_bytes or 2**34) * MEMORY_SHARE / dense)
    return max(1, min(wanted, affordable, MOST_LAYERS))


def _least_bytes(task: MlpTask, density: float) -> float:
    """Return what an MLP reads at a density, without scales."""
    bits = BITS.get(task.format) or (32 if task.format == "float32" else 16)
    return task.parameters * bits / 8 * density
