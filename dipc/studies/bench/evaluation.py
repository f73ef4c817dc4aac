"""`dipc bench eval`: how long the perplexity of sparsified programs takes, beside that of the dense one, in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dipc.errors import UsageError
from dipc.studies.bench import contest, machine
from dipc.studies.bench.contest import Failure, Measured, Ratio, Rules
from dipc.studies.bench.decode_worker import DENSE
from dipc.studies.bench.eval_worker import CASE
from dipc.studies.bench.process import Contender


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: as `capture` takes it, on the text that comes with dipc; a config.json gets random weights and tokens.
        passes: "dense", and methods as pipeline text; all are compared with dense.
        seq_len: tokens of a window; by default the context, at most 2,048.
        max_tokens: that are measured in one call.
        seed: of random weights and tokens.
        plugins: files whose passes may be used.
    """

    model: str = "demo"
    passes: tuple[str, ...] = (DENSE, "dip", "dip-ca")
    seq_len: int | None = None
    max_tokens: int = 2048
    seed: int = 0
    plugins: tuple[Path, ...] = ()

    def check(self) -> None:
        """UsageError for what cannot be measured, before anything is built."""
        from dipc.frontend.hugging_face import find_model
        from dipc.pipeline.text import parse_pipeline

        find_model(self.model)
        if self.max_tokens < 2:
            raise UsageError(f"max_tokens is {self.max_tokens}; it must be at least 2")
        for passes in self.passes:
            if passes != DENSE:
                parse_pipeline(passes)


@dataclass(frozen=True)
class Row:
    """One program: seconds of a call, the perplexity that it gave, and its time by that of dense."""

    passes: str
    measured: Measured
    perplexity: float
    tokens: int
    seq_len: int
    ratio: Ratio | None

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens, by the median time."""
        return self.tokens / self.measured.median_s


@dataclass(frozen=True)
class EvalResult:
    """All programs, with what they were measured on."""

    machine: machine.Machine
    settings: Settings
    rules: Rules
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


def bench_eval(
    settings: Settings, rules: Rules, progress: Callable[[int, int], None] = lambda done, total: None
) -> EvalResult:
    """Let the programs take turns.

    Args:
        settings: what is measured.
        rules: how.
        progress: called with the number of turns done and of all.

    Raises:
        UsageError: the settings cannot be measured.
    """
    settings.check()
    where = machine.describe()
    outcome = contest.hold([_contender(passes, settings, rules) for passes in settings.passes], rules, progress)
    rows = []
    for passes in settings.passes:
        if (passes, CASE) in outcome.measured:
            measured, beside = outcome.measured[passes, CASE], outcome.measured.get((DENSE, CASE))
            perplexity, tokens, seq_len = measured.answer or (0.0, 0, 0)
            ratio = None if beside is None else contest.speedup(beside, measured)
            rows.append(Row(passes, measured, perplexity, int(tokens), int(seq_len), ratio))
    return EvalResult(where, settings, rules, tuple(rows), outcome.failures)


def _contender(passes: str, settings: Settings, rules: Rules) -> Contender:
    arguments = {
        "model": settings.model,
        "passes": passes,
        "seq_len": settings.seq_len,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
        "threads": rules.threads,
        "plugins": [str(file.resolve()) for file in settings.plugins],
    }
    return Contender(passes, "dipc.studies.bench.eval_worker:perplexity_of", arguments)
