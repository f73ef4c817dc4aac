"""Execute the runs of a study, in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dipc.backends import get_backend
from dipc.documents import JsonObject
from dipc.frontend.hugging_face import capture
from dipc.ir.program import ModelInfo, Program
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.studies.engine.dense_session import CachedDenseSession
from dipc.studies.engine.folder import Folder
from dipc.studies.engine.run import RunExecutor, Watch
from dipc.studies.study.measure import Measured, StudyRun, measure, of_dense
from dipc.studies.study.store import STUDY, StudyStore
from dipc.text import Text


@dataclass(frozen=True)
class StudySetup:
    """Everything that all runs of a study share. It can be sent to another process, which then loads the model itself.

    Attributes:
        model: what `capture` takes.
        capture_options: for `capture`.
        plugins: files of passes, policies and operators.
        text: what is measured on, in windows of `seq_len` tokens, `max_tokens` in all.
        folder: of the study.
        cached_bytes: of the dense model's logits to keep.
    """

    model: str
    capture_options: tuple[tuple[str, Any], ...]
    plugins: tuple[Path, ...]
    text: Text = field(repr=False)
    seq_len: int
    max_tokens: int | None
    folder: Path
    cached_bytes: int

    def described(self, scored: int) -> JsonObject:
        """Return the text as a result names it, with the number of tokens that were scored."""
        own = {"name": self.text.name, "digest": self.text.digest, "tokens": scored}
        return {**own, "seq_len": self.seq_len, "protocol": "dip"}

    @property
    def windows(self) -> TextSpec:
        """Return what of the text is measured on."""
        return TextSpec(self.seq_len, self.max_tokens)

    def opened(self, info: ModelInfo) -> Folder:
        """Open the folder. Raises UsageError where it is about another model or text."""
        text = {"text": self.text.name, "text digest": self.text.digest} if info.has_weights else {}
        extent = {"tokens of a window": self.seq_len, "tokens at most": self.max_tokens} if text else {}
        about = {"model": info.name, "model digest": info.digest, **text, **extent}
        return Folder(self.folder, about, STUDY)

    def store(self, program: Program) -> StudyStore:
        """Return the finished runs of the folder."""
        return StudyStore(self.opened(program.info), program, self.text, self.windows)

    def open(self) -> StudyExecutor:
        """Load the model, and return what executes the runs."""
        captured = capture(self.model, **dict(self.capture_options))
        return StudyExecutor(self, run_pipeline(captured, parse_pipeline("outline-glu")).program)


class StudyExecutor(RunExecutor[StudyRun, Measured]):
    """Executes runs, in one process.

    Args:
        setup: of the study.
        program: the dense model with its MLPs outlined.
        compile: makes a pipeline's program of it.
    """

    def __init__(self, setup: StudySetup, program: Program, compile: Callable[[str], Program] | None = None) -> None:
        self.setup = setup
        self.store: StudyStore = setup.store(program)
        self._compile = compile or (lambda text: run_pipeline(program, parse_pipeline(text)).program)
        with get_backend("eager", "run").open(program) as session:
            self._dense = CachedDenseSession(session, setup.cached_bytes, setup.folder)

    def make(self, run: StudyRun, watch: Watch) -> None:
        """Make a run and keep it."""
        self.store.keep(run, *self._measure(run, watch))

    def _measure(self, run: StudyRun, watch: Watch) -> tuple[Measured, Trace | None]:
        text, windows = self.setup.text, self.setup.windows

        def seen(done: int, total: int) -> None:
            watch(done / max(1, total), run.label)

        if not run.pipeline:
            return of_dense(self._dense, text, windows, seen), None
        return measure(self._compile(run.pipeline), run, self._dense, text, windows, seen)
