"""`dipc bench decode`: tokens per second of a whole model with its KV cache, dense and sparse, in ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipc.errors import BadFile, UsageError
from dipc.frontend.hugging_face import read_config
from dipc.studies.bench import contest, machine
from dipc.studies.bench.contest import Failure, Measured, Outcome, Ratio, Rules
from dipc.studies.bench.decode_worker import CASE, DENSE, FACTS, pipeline
from dipc.studies.bench.memory import CASE as READ_CASE
from dipc.studies.bench.memory import READ
from dipc.studies.bench.process import Contender, Lost

MEMORY_SHARE = 0.6
"""Models of a contest may take so much of the memory: each is in it twice, as mapped and as ONNX Runtime packs it."""
MOST_READ_BYTES = 10**9
LLAMA_3_2_1B = Path(__file__).parent / "llama-3.2-1b.json"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        config: the config.json of the model's shape.
        passes: "dense", and methods as pipeline text; all are compared with dense.
        formats: "float32", or passes that quantise, as pipeline text.
        prompt: tokens before the first that is timed.
        seed: of weights and tokens.
        folder: where exported models are kept for the next time; by default they are removed.
        plugins: files whose passes may be used.
    """

    config: Path = LLAMA_3_2_1B
    passes: tuple[str, ...] = (DENSE, "dip{density=0.5}", "dip-ca{density=0.5}")
    formats: tuple[str, ...] = ("float32", "int4")
    prompt: int = 64
    seed: int = 0
    folder: Path | None = None
    plugins: tuple[Path, ...] = ()

    def check(self, rules: Rules) -> None:
        """UsageError for what cannot be measured, BadFile for no config, before anything is built."""
        for passes in self.passes:
            for format_ in self.formats:
                pipeline(passes, format_)
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


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        passes: the method, or "dense".
        pipeline: all passes.
        measured: seconds per token.
        bytes_per_token: weights that a token reads, by the program.
        file_bytes: of the exported model.
        speedup: against dense in the same contest.
        allowed: the speed-up that the bytes allow.
        roof: bytes read per second, as a share of the memory's.
    """

    passes: str
    pipeline: str
    measured: Measured
    bytes_per_token: float
    file_bytes: int
    speedup: Ratio | None
    allowed: float | None
    roof: float | None

    @property
    def tokens_per_second(self) -> float:
        """By the median time."""
        return 1 / self.measured.median_s

    @property
    def reached(self) -> float | None:
        """The speed-up as a share of what the bytes allow."""
        return None if self.speedup is None or self.allowed is None else self.speedup.value / self.allowed


@dataclass(frozen=True)
class DecodeContest:
    """Models that took turns: dense and one or more methods, in one format."""

    format: str
    roof_bytes_per_s: float | None
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class DecodeResult:
    """All contests, with what they were measured on; `parameters` and `layers` are the model's, or None."""

    machine: machine.Machine
    settings: Settings
    rules: Rules
    parameters: int | None
    layers: int | None
    contests: tuple[DecodeContest, ...]


def bench_decode(settings: Settings, rules: Rules, progress: Progress = lambda what, done, total: None) -> DecodeResult:
    """Export the models and let them take turns.

    All models of a format run in one contest where memory holds them, else dense beside each method in turn.

    Args:
        settings: what is measured.
        rules: how.
        progress: called with what is being done, the number of steps done and of all.

    Raises:
        UsageError: the settings cannot be measured.
        BadFile: the config is none.
    """
    settings.check(rules)
    where = machine.describe()
    found: list[DecodeContest] = []
    facts: Mapping[str, Any] = {}
    with _folder(settings) as folder:
        for format_ in settings.formats:
            models = Models(settings, rules, format_, folder, progress)
            for group in _groups(settings.passes, models, where):
                found.append(_contest(group, models))
            facts = next(iter(models.facts.values()), facts)
            models.remove()
    return DecodeResult(where, settings, rules, facts.get("parameters"), facts.get("layers"), tuple(found))


class Models:
    """The exported models of one format, each built when first asked for."""

    def __init__(self, settings: Settings, rules: Rules, format_: str, folder: Path, progress: Progress) -> None:
        self.settings, self.rules, self.format, self.progress = settings, rules, format_, progress
        self._root = folder
        self.facts: dict[str, Mapping[str, Any]] = {}
        self.failures: dict[str, Failure] = {}

    def folder(self, passes: str) -> Path:
        """Of one model; its name says what the model is made of, files by a digest of their contents."""
        files = (self.settings.config, *self.settings.plugins)
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
        key = f"{self.settings.config.stem}-{digest[:8]}-{pipeline(passes, self.format)}-{self.settings.seed}"
        return self._root / "".join(c if c.isalnum() or c in ".-=" else "_" for c in key)

    def have(self, passes: str) -> bool:
        """Build a model unless it is there; False where that failed."""
        if passes in self.facts or passes in self.failures:
            return passes in self.facts
        folder = self.folder(passes)
        self.progress(f"building {pipeline(passes, self.format)}", 0, 1)
        if not (folder / FACTS).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            arguments = {"config": str(self.settings.config.resolve()), "passes": passes, "format": self.format}
            more: dict[str, Any] = {"seed": self.settings.seed, "folder": str(folder)}
            more |= {"plugins": [str(file.resolve()) for file in self.settings.plugins]}
            try:
                contest.answers(
                    Contender(passes, "dipc.studies.bench.decode_worker:build", arguments | more), self.rules
                )
            except Lost as lost:
                self.failures[passes] = Failure(passes, "build", str(lost), lost.absent)
                return False
        self.facts[passes] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return True

    def contender(self, passes: str) -> Contender:
        """The process that runs a model; dense in ONNX Runtime as it is."""
        arguments = {"folder": str(self.folder(passes)), "prompt": self.settings.prompt, "seed": self.settings.seed}
        more = {"threads": self.rules.threads, "kernels": passes != DENSE}
        return Contender(passes, "dipc.studies.bench.decode_worker:decode", arguments | more)

    def remove(self) -> None:
        """Take the models off the disk, unless they are to be kept."""
        if self.settings.folder is None:
            for passes in self.facts:
                shutil.rmtree(self.folder(passes), ignore_errors=True)


def _groups(passes: Sequence[str], models: Models, where: machine.Machine) -> Iterator[list[str]]:
    """Which models run together."""
    methods = [p for p in passes if p != DENSE]
    dense = [p for p in passes if p == DENSE]
    budget = MEMORY_SHARE * (where.memory_bytes or 2**34)
    first = next((p for p in (*dense, *methods) if models.have(p)), None)
    # Methods take about as much room as dense, which is built first.
    size = 0 if first is None else models.facts[first]["file_bytes"]
    if 2 * size * len(passes) <= budget or not methods:
        yield [*dense, *methods]
    else:
        yield from ([*dense, method] for method in methods)


def _contest(group: Sequence[str], models: Models) -> DecodeContest:
    built = [p for p in group if models.have(p)]
    failures = [models.failures[p] for p in group if p in models.failures]
    entrants = [models.contender(p) for p in built]
    if built:
        size = int(min(models.facts[built[0]]["bytes_per_token"], MOST_READ_BYTES))
        read = {"size": size, "repeats": 1, "threads": models.rules.threads}
        entrants.insert(0, Contender(READ, "dipc.studies.bench.memory:memory", read))
    outcome = contest.hold(entrants, models.rules, lambda done, total: models.progress(models.format, done, total))
    roof = outcome.measured.get((READ, READ_CASE))
    rows = [
        _row(p, models.facts[p], models.facts.get(DENSE), outcome, roof) for p in built if (p, CASE) in outcome.measured
    ]
    bandwidth = None if roof is None else roof.bytes_per_s
    return DecodeContest(models.format, bandwidth, tuple(rows), (*failures, *outcome.failures))


def _row(
    passes: str, facts: Mapping[str, Any], dense: Mapping[str, Any] | None, outcome: Outcome, roof: Measured | None
) -> Row:
    measured, beside = outcome.measured[passes, CASE], outcome.measured.get((DENSE, CASE))
    return Row(
        passes,
        facts["pipeline"],
        measured,
        facts["bytes_per_token"],
        facts["file_bytes"],
        None if beside is None else contest.speedup(measured, beside),
        None if dense is None else dense["bytes_per_token"] / facts["bytes_per_token"],
        None if roof is None else measured.bytes_per_s / roof.bytes_per_s,
    )


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """Where the models are, for as long as the context lasts."""
    if settings.folder is not None:
        try:
            settings.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{settings.folder}: no folder can be made there: {error.strerror or error}") from error
        if not os.access(settings.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{settings.folder}: nothing can be written there; choose another folder")
        yield settings.folder
        return
    with tempfile.TemporaryDirectory(prefix="dipc-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
