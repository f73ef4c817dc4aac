"""`dipc bench eval`: how long the perplexity of sparsified programs takes, beside that of the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dipc.errors import UsageError
from dipc.frontend.hugging_face import find_model
from dipc.studies.bench.backend import check_backend
from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.eval import CASE, measure_perplexity
from dipc.studies.bench.candidates.pipelines import eval_pipeline
from dipc.studies.bench.contest import Failure, Outcome, Progress, Rules, run_interleaved
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import DENSE, EvalOptions
from dipc.studies.bench.timing import Ratio, Timing, speedup


@dataclass(frozen=True)
class EvalRow:
    """One program: seconds of a call, the perplexity that it gave, and its time by that of dense."""

    passes: str
    timing: Timing
    perplexity: float
    tokens: int
    seq_len: int
    time_by_dense: Ratio | None

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
        plugins: files whose passes may be used.
    """

    plugins: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise UsageError for what cannot be measured, before anything is built."""
        check_backend(self.backend)
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
        rows = tuple(_row(passes, outcome) for passes in self.passes if (passes, CASE) in outcome.timings)
        return EvalBenchResult(machine, self, rules, rows, outcome.failures)

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
            threads=rules.threads,
            plugins=[str(file.resolve()) for file in self.plugins],
            backend=self.backend,
        )


def _row(passes: str, outcome: Outcome) -> EvalRow:
    timing, dense = outcome.timings[passes, CASE], outcome.timings.get((DENSE, CASE))
    perplexity, tokens, seq_len = timing.answer or (0.0, 0, 0)
    time_by_dense = None if dense is None else speedup(dense, timing)
    return EvalRow(passes, timing, perplexity, int(tokens), int(seq_len), time_by_dense)
