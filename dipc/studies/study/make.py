"""Runs: a program on the study's text. What a run gives is kept in the folder and serves every price of it.

A run of a method that knows of no cache depends on the text alone: every DRAM, flash and policy is a replay of its
trace. A run of a cache-aware method depends on the units that its DRAM leaves room for as well, and on its policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dipc.backends import get_backend
from dipc.errors import BadFile, VerificationFailed
from dipc.evaluation.perplexity import evaluate, perplexity
from dipc.files import code_digest, file_lock
from dipc.frontend.hugging_face import capture
from dipc.ir.program import ModelInfo, Program
from dipc.ir.selections import with_capacities
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.pipeline.fingerprint import described
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.studies.compare.folder import Folder, Layout
from dipc.studies.compare.measure import Remembered
from dipc.text import Text
from dipc.version import __version__

STUDY = Layout("study", "about.json", "runs")
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """A program, and the units that each cache-aware selection may count on.

    Attributes:
        label: for people.
        pipeline: what makes the program of the dense one; empty for the dense one itself.
        capacities: units by site; empty for a program that follows no cache.
    """

    label: str
    pipeline: str = ""
    capacities: tuple[tuple[str, int], ...] = ()


DENSE_RUN = Run("dense")


@dataclass(frozen=True)
class Measured:
    """What a run gave: perplexity, nats per token to dense, density, scored tokens, and whether there is a trace."""

    perplexity: float
    kl: float
    density: float
    tokens: int
    traced: bool


@dataclass(frozen=True)
class Setup:
    """What all runs of a study share. It can be sent to another process, which then loads the model itself.

    Attributes:
        model: what `capture` takes.
        capture_options: for `capture`.
        plugins: files of passes, policies and operators.
        text: what is measured on, in windows of `seq_len` tokens, `max_tokens` in all.
        folder: of the study.
        remembered_bytes: of the dense model's logits to keep.
    """

    model: str
    capture_options: tuple[tuple[str, Any], ...]
    plugins: tuple[Path, ...]
    text: Text = field(repr=False)
    seq_len: int
    max_tokens: int | None
    folder: Path
    remembered_bytes: int

    def described(self, scored: int) -> dict[str, Any]:
        """The text as a result names it, with the number of tokens that were scored."""
        own = {"name": self.text.name, "digest": self.text.digest, "tokens": scored}
        return {**own, "seq_len": self.seq_len, "protocol": "dip"}

    def about(self, info: ModelInfo) -> dict[str, Any]:
        """What the folder is about."""
        text = {"text": self.text.name, "text digest": self.text.digest} if info.has_weights else {}
        extent = {"tokens of a window": self.seq_len, "tokens at most": self.max_tokens} if text else {}
        return {"model": info.name, "model digest": info.digest, **text, **extent}

    @property
    def extent(self) -> dict[str, Any]:
        """What of the text is measured on."""
        return {"seq_len": self.seq_len, "max_tokens": self.max_tokens}


class Store:
    """The finished runs of a folder.

    Args:
        setup: of the study.
        program: the dense model.
        folder: opened; by default it is opened now.
    """

    def __init__(self, setup: Setup, program: Program, folder: Folder | None = None) -> None:
        self.setup, self._info = setup, program.info
        self._dtype = str(next(iter(program.weights.values())).dtype)
        self._folder = folder or Folder(setup.folder, setup.about(program.info), STUDY)

    def read(self, run: Run) -> Measured | None:
        """What a run gave; None where it was not made."""
        held = self._folder.read(run.label, self._depends_on(run))
        if held is None:
            return None
        try:
            found = Measured(**held)
        except TypeError as error:
            raise BadFile(f"{self._file(run)}: not what a run gave; remove it, and the run is made again") from error
        return found if not found.traced or self._trace(run).is_file() else None

    def trace(self, run: Run) -> Trace:
        """The activity of a run that was made and has one."""
        return Trace.load(self._trace(run), mapped=True)

    def keep(self, run: Run, measured: Measured, trace: Trace | None) -> None:
        """Keep a run: the trace first, for what has figures is finished."""
        if trace is not None:
            trace.save(self._trace(run))
        self._folder.keep(run.label, self._depends_on(run), vars(measured))

    def claim(self, run: Run) -> Any:
        """A context in which no other process makes this run."""
        return file_lock(self._file(run).with_suffix(".lock"))

    def _file(self, run: Run) -> Path:
        return self._folder.file(run.label, self._depends_on(run))

    def _trace(self, run: Run) -> Path:
        return self._file(run).with_suffix(".safetensors")

    def _depends_on(self, run: Run) -> dict[str, Any]:
        passes = parse_pipeline(run.pipeline) if run.pipeline else []
        capacities = ",".join(f"{site}={units}" for site, units in run.capacities)
        return {
            "model": self._info.digest,
            "dtype": self._dtype,
            "text": self.setup.text.digest,
            **self.setup.extent,
            "pipeline": [_described(item) for item in passes],
            "capacities": hashlib.sha256(capacities.encode()).hexdigest()[:16] if capacities else None,
            "versions": {"dipc": __version__, "torch": torch.__version__},
        }


class Maker:
    """Makes runs, in one process.

    Args:
        setup: of the study.
        program: the dense model with its MLPs outlined.
        compile: makes a pipeline's program of it.
    """

    def __init__(self, setup: Setup, program: Program, compile: Callable[[str], Program] | None = None) -> None:
        self.setup, self.program, self.store = setup, program, Store(setup, program)
        self._compile = compile or (lambda text: run_pipeline(program, parse_pipeline(text)).program)
        with get_backend("eager", "run").open(program) as session:
            self._dense = Remembered(session, setup.remembered_bytes)

    def make(self, run: Run, watch: Watch) -> None:
        """Make a run and keep it, unless it was made, perhaps by another process meanwhile."""
        with self.store.claim(run):
            if self.store.read(run) is None:
                self.store.keep(run, *self._measure(run, watch))

    def _measure(self, run: Run, watch: Watch) -> tuple[Measured, Trace | None]:
        text, extent = self.setup.text, self.setup.extent
        if not run.pipeline:
            own = perplexity(self._dense, text, progress=watch, windows=TextSpec(**extent))
            return Measured(own.perplexity, 0.0, 1.0, own.tokens, False), None
        program = with_capacities(self._compile(run.pipeline), dict(run.capacities))
        score = evaluate(program, text, dense=self._dense, record=True, progress=watch, windows=TextSpec(**extent))
        if not score.perplexity < float("inf"):
            raise VerificationFailed(f"the perplexity is {score.perplexity}")
        traced = score.trace is not None
        return Measured(score.perplexity, score.kl_to_dense, score.density, score.tokens, traced), score.trace


def make_elsewhere(setup: Setup, run: Run, watch: Watch) -> None:
    """Make a run in a process that has nothing of the study yet; the next one finds the model loaded."""
    _maker(setup).make(run, watch)


@lru_cache(maxsize=1)
def _maker(setup: Setup) -> Maker:
    from dipc.registry import load_installed_plugins, load_plugin

    torch.set_num_threads(1)  # as many processes as cores are at it already
    load_installed_plugins()
    for file in setup.plugins:
        load_plugin(file)
    captured = capture(setup.model, **dict(setup.capture_options))
    return Maker(setup, run_pipeline(captured, parse_pipeline("outline-glu")).program)


def _described(item: Pass) -> dict[str, Any]:
    """A pass with the code of its policy, where it has one."""
    from dipc.cache.policy import get_policy

    policy = getattr(item, "policy", None)
    return {**described(item), **({} if policy is None else {"policy code": code_digest(type(get_policy(policy)))})}
