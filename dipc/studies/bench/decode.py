"""`dipc bench decode`: tokens per second of a whole model with its KV cache, dense and sparse."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dipc.errors import BadFile, UsageError
from dipc.frontend.model_json import read_config
from dipc.studies.bench.backend import check_backend
from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.decode import CASE, ModelFacts
from dipc.studies.bench.candidates.pipelines import decode_pipeline
from dipc.studies.bench.candidates.read_bandwidth import CASE as READ_CASE
from dipc.studies.bench.candidates.read_bandwidth import READ, read_memory
from dipc.studies.bench.contest import Failure, Outcome, Progress, Rules, run_interleaved
from dipc.studies.bench.exported_models import ExportedModels
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import DENSE, DecodeOptions
from dipc.studies.bench.timing import Ratio, Timing, speedup

MEMORY_SHARE = 0.6
"""Models of a contest may take so much of the memory: each is in it twice, as mapped and as its runtime packs it."""
MOST_READ_BYTES = 10**9
LLAMA_3_2_1B = Path(__file__).parent / "llama-3.2-1b.json"


@dataclass(frozen=True)
class DecodeRow:
    """One model.

    Attributes:
        passes: the method, or "dense".
        pipeline: all passes.
        timing: seconds per token.
        bytes_per_token: weights that a token reads, by the program.
        file_bytes: of the exported model.
        speedup: against dense in the same contest.
        allowed_speedup: the speed-up that the bytes allow.
        roofline_share: bytes read per second, as a share of the memory's.
    """

    passes: str
    pipeline: str
    timing: Timing
    bytes_per_token: float
    file_bytes: int
    speedup: Ratio | None
    allowed_speedup: float | None
    roofline_share: float | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, by the median time."""
        return 1 / self.timing.median_s

    @property
    def reached(self) -> float | None:
        """The speed-up as a share of what the bytes allow."""
        if self.speedup is None or self.allowed_speedup is None:
            return None
        return self.speedup.value / self.allowed_speedup


@dataclass(frozen=True)
class DecodeContest:
    """The models that took turns: dense and one or more methods, in one format."""

    format: str
    roofline_bytes_per_s: float | None
    rows: tuple[DecodeRow, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class DecodeBenchResult:
    """All contests, with what they were measured on; `parameters` and `layers` are the model's, or None."""

    machine: Machine
    bench: DecodeBench
    rules: Rules
    parameters: int | None
    layers: int | None
    contests: tuple[DecodeContest, ...]


@dataclass(frozen=True)
class DecodeBench(DecodeOptions):
    """The contest of models of one shape, in each format.

    Attributes:
        config: the config.json of the model's shape.
        passes: "dense", and methods as pipeline text; all are compared with dense.
        formats: "float32", or passes that quantise, as pipeline text.
        prompt: tokens before the first that is timed.
        seed: of weights and tokens.
        folder: where the models are kept for the next time; by default they are removed.
        backend: what runs them: its own exports, where it makes some.
        plugins: files whose passes may be used.
    """

    config: Path = LLAMA_3_2_1B
    plugins: tuple[Path, ...] = ()

    def check(self, rules: Rules) -> None:
        """Raise UsageError for what cannot be measured, BadFile for no config, before anything is built."""
        check_backend(self.backend)
        for passes in self.passes:
            for format_ in self.formats:
                decode_pipeline(passes, format_, self.backend)
        if not self.config.is_file():
            raise UsageError(f"{self.config}: no such file; give a model's config.json")
        config = read_config(self.config)
        if "model_type" not in config:
            raise BadFile(f"{self.config}: not a model's config.json: it has no model_type")
        context = config.get("max_position_embeddings")
        needed = self.prompt + 1 + rules.rounds * (rules.calls + rules.warmup)
        if isinstance(context, int) and needed > context:
            raise UsageError(
                f"{needed} tokens would be run and the context is {context}; lower rounds, calls or prompt"
            )

    def run(self, rules: Rules, progress: Progress = lambda done, total: None) -> DecodeBenchResult:
        """Make the models and let them take turns.

        All models of a format run in one contest where memory holds them, else dense beside each method in turn.

        Raises:
            UsageError: it cannot be measured.
            BadFile: the config is none.
        """
        self.check(rules)
        machine = describe_machine()
        contests: list[DecodeContest] = []
        facts: ModelFacts | None = None
        with _models_folder(self.folder) as folder:
            for format_ in self.formats:
                models = ExportedModels(
                    self.config, format_, self.seed, self.plugins, folder, rules, progress, self.backend
                )
                groups = _groups(self.passes, models, machine)
                contests.extend(_run_group(group, models, self.prompt) for group in groups)
                facts = next(iter(models.facts.values()), facts)
                if self.folder is None:
                    models.remove()
        parameters, layers = (None, None) if facts is None else (facts.parameters, facts.layers)
        return DecodeBenchResult(machine, self, rules, parameters, layers, tuple(contests))


def _groups(passes: Sequence[str], models: ExportedModels, machine: Machine) -> Iterator[list[str]]:
    """Yield the models that run together."""
    methods = [p for p in passes if p != DENSE]
    dense = [p for p in passes if p == DENSE]
    budget = MEMORY_SHARE * (machine.memory_bytes or 2**34)
    first = next((p for p in (*dense, *methods) if models.have(p)), None)
    # Methods take about as much room as dense, which is built first.
    size = 0 if first is None else models.facts[first].file_bytes
    if 2 * size * len(passes) <= budget or not methods:
        yield [*dense, *methods]
    else:
        yield from ([*dense, method] for method in methods)


def _run_group(group: Sequence[str], models: ExportedModels, prompt: int) -> DecodeContest:
    built = [p for p in group if models.have(p)]
    failures = [models.failures[p] for p in group if p in models.failures]
    candidates = [models.candidate(p, prompt) for p in built]
    if built:
        size = int(min(models.facts[built[0]].bytes_per_token, MOST_READ_BYTES))
        read = Candidate.calling(READ, read_memory, size=size, repeats=1, threads=models.rules.threads)
        candidates.insert(0, read)
    outcome = run_interleaved(candidates, models.rules, models.progress)
    rows = tuple(_row(p, models, outcome) for p in built if (p, CASE) in outcome.timings)
    read_timing = outcome.timings.get((READ, READ_CASE))
    roofline = None if read_timing is None else read_timing.bytes_per_s
    return DecodeContest(models.format, roofline, rows, (*failures, *outcome.failures))


def _row(passes: str, models: ExportedModels, outcome: Outcome) -> DecodeRow:
    facts, dense_facts = models.facts[passes], models.facts.get(DENSE)
    timing, dense = outcome.timings[passes, CASE], outcome.timings.get((DENSE, CASE))
    read = outcome.timings.get((READ, READ_CASE))
    return DecodeRow(
        passes,
        facts.pipeline,
        timing,
        facts.bytes_per_token,
        facts.file_bytes,
        None if dense is None else speedup(timing, dense),
        None if dense_facts is None else dense_facts.bytes_per_token / facts.bytes_per_token,
        None if read is None else timing.bytes_per_s / read.bytes_per_s,
    )


@contextmanager
def _models_folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder of the models for as long as the context lasts."""
    if kept is not None:
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{kept}: no folder can be made there: {error.strerror or error}") from error
        if not os.access(kept, os.W_OK | os.X_OK):
            raise UsageError(f"{kept}: nothing can be written there; choose another folder")
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="dipc-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
