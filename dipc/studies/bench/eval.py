"""`dipc bench eval`: how long the perplexity of sparsified programs takes, beside that of the dense one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dipc.backends import RunOptions
from dipc.errors import UsageError
from dipc.frontend.hugging_face import find_model
from dipc.ir.placement import choose_device
from dipc.studies.bench.backend import check_backend, check_device
from dipc.studies.bench.candidate import Candidate, CandidateLost
from dipc.studies.bench.candidates.eval import CASE, measure_perplexity
from dipc.studies.bench.candidates.pipelines import eval_pipeline
from dipc.studies.bench.contest import Failure, Outcome, Progress, Rules, run_interleaved, untimed_answers
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import DENSE, EvalOptions
from dipc.studies.bench.timing import Ratio, Timing, speedup


@dataclass(frozen=True)
class EvalRow:
    """One program: seconds of a call, the perplexity that it gave, and its time by that of dense.

    `cpu_perplexity` is what it gives on the CPU, measured once and untimed, where it took its turns on a GPU.
    """

    passes: str
    timing: Timing
    perplexity: float
    tokens: int
    seq_len: int
    time_by_dense: Ratio | None
    cpu_perplexity: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens, by the median time."""
        return self.tokens / self.timing.median_s


@dataclass(frozen=True)
class EvalBenchResult:
    """All programs, with what they were measured on."""

    machine: Machine
    bench: EvalBench
    rules: Rules
    rows: tuple[EvalRow, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class EvalBench(EvalOptions):
    """The contest of measurements of perplexity.

    Attributes:
        model: as `capture` takes it, on the text that comes with dipc; a config.json gets random weights and tokens.
        passes: "dense", and methods as pipeline text; all are compared with dense.
        seq_len: tokens of a window; by default the context, at most 2,048.
        max_tokens: that are measured in one call.
        seed: of random weights and tokens.
        backend: what runs the programs.
        device: of torch, for a backend that takes one; beside a GPU every program is also measured on the CPU.
        plugins: files whose passes may be used.
    """

    plugins: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise UsageError for what cannot be measured, before anything is built."""
        check_backend(self.backend)
        if self.device is not None:
            check_device(self.backend, self.device)
        find_model(self.model)
        if self.max_tokens < 2:
            raise UsageError(f"max_tokens is {self.max_tokens}; it must be at least 2")
        for passes in self.passes:
            eval_pipeline(passes)

    def run(self, rules: Rules, progress: Progress = lambda done, total: None) -> EvalBenchResult:
        """Let the programs take turns.

        Raises:
            UsageError: it cannot be measured.
        """
        self.check()
        machine = describe_machine()
        outcome = run_interleaved([self.candidate(passes, rules) for passes in self.passes], rules, progress)
        here, failures = self._on_cpu(rules, progress) if self.is_elsewhere else ({}, ())
        rows = tuple(_row(passes, outcome, here) for passes in self.passes if (passes, CASE) in outcome.timings)
        return EvalBenchResult(machine, self, rules, rows, (*outcome.failures, *failures))

    @property
    def is_elsewhere(self) -> bool:
        """Return whether programs run off the CPU."""
        return self.device is not None and choose_device(self.device).type != "cpu"

    def _on_cpu(self, rules: Rules, progress: Progress) -> tuple[dict[str, float], tuple[Failure, ...]]:
        """Return the perplexity of each program on the CPU, untimed, and who gave none."""
        bench, found, failures = dataclasses.replace(self, device="cpu"), {}, []
        for done, passes in enumerate(self.passes):
            progress(done, len(self.passes))
            try:
                found[passes] = untimed_answers(bench.candidate(passes, rules), rules)[CASE][0]
            except CandidateLost as lost:
                failures.append(Failure(passes, "on the CPU", str(lost), lost.absent))
        progress(len(self.passes), len(self.passes))
        return found, tuple(failures)

    def candidate(self, passes: str, rules: Rules) -> Candidate:
        """Return the candidate that measures one program."""
        return Candidate.calling(
            passes,
            measure_perplexity,
            model=self.model,
            passes=passes,
            seq_len=self.seq_len,
            max_tokens=self.max_tokens,
            seed=self.seed,
            plugins=[str(file.resolve()) for file in self.plugins],
            runner=RunOptions(self.backend, device=self.device, threads=rules.threads),
        )


def _row(passes: str, outcome: Outcome, cpu_perplexity: Mapping[str, float]) -> EvalRow:
    timing, dense = outcome.timings[passes, CASE], outcome.timings.get((DENSE, CASE))
    perplexity, tokens, seq_len = timing.answer or (0.0, 0, 0)
    time_by_dense = None if dense is None else speedup(dense, timing)
    here = cpu_perplexity.get(passes)
    return EvalRow(passes, timing, perplexity, int(tokens), int(seq_len), time_by_dense, here)
