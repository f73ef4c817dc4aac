"""The runs of a comparison: the program of a row on the text and the tasks, each figure a cell of the folder.

FOLDER/comparison.json    the model, the text and what else all cells share; another comparison is refused
cells/*.json       a cell each, named by what its figures depend on
calibration.*      the calibration, and what it was made from
adapters/          an adapter for each trained row
table.md, table.json, perplexity.svg, perplexity.png
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipc.files import file_lock
from dipc.ir.program import Program
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import with_calibration
from dipc.pipeline.text import parse_pipeline
from dipc.studies.compare.benchmarks import Benchmarks
from dipc.studies.compare.measure import measure
from dipc.studies.compare.prepare import AdapterTraining
from dipc.studies.compare.result import Accuracy, Figures
from dipc.studies.engine.code import code_of, model_of
from dipc.studies.engine.folder import Folder, Layout, file_stem
from dipc.text import Text

COMPARISON = Layout("comparison", "comparison.json", "cells")


@dataclass(frozen=True)
class RowSetup:
    """Everything that all rows of a comparison share.

    Attributes:
        text: what is measured on, in windows of `seq_len` tokens, `max_tokens` in all.
        calibration: the file that calibrated methods read, if there is one.
        training: how adapters are trained, if they can be.
        benchmarks: the tasks; there may be none.
    """

    text: Text
    seq_len: int
    max_tokens: int | None
    calibration: Path | None
    training: AdapterTraining | None
    benchmarks: Benchmarks

    @property
    def extent(self) -> dict[str, Any]:
        """Return what of the text is measured on."""
        return {"seq_len": self.seq_len, "max_tokens": self.max_tokens}

    def passes(self, pipeline: str) -> list[Pass]:
        """Return the passes of a pipeline with the calibration. Raises UsageError where it cannot be read."""
        passes = parse_pipeline(pipeline) if pipeline else []
        return passes if self.calibration is None else with_calibration(passes, str(self.calibration))


@dataclass(frozen=True)
class RowRun:
    """A row's program: that of a pipeline, its adapter trained first if it needs one, or the dense model."""

    label: str
    pipeline: str = ""
    is_trained: bool = False


DENSE_RUN = RowRun("dense")


@dataclass(frozen=True)
class RowResult:
    """The result of a row's program: its figures on the text, and its accuracies by task."""

    figures: Figures
    tasks: Mapping[str, Accuracy]


class RowStore:
    """The finished cells of a comparison.

    Args:
        setup: of all rows.
        program: the dense model.
        folder: that keeps them.
    """

    def __init__(self, setup: RowSetup, program: Program, folder: Folder) -> None:
        self.setup, self.folder = setup, folder
        self._model = model_of(program)
        self._code: dict[RowRun, dict[str, Any]] = {}

    def read(self, run: RowRun) -> RowResult | None:
        """Return what a run gave, or None where a part of it is missing."""
        figures = self.figures(run)
        tasks = {task: self.accuracies(run, task) for task in self.setup.benchmarks.tasks} if figures else {}
        if figures is None or None in tasks.values():
            return None
        return RowResult(figures, {name: score for found in tasks.values() for name, score in (found or {}).items()})

    def claim(self, run: RowRun) -> AbstractContextManager[None]:
        """Return a context in which no other process makes this run."""
        return file_lock(self.folder.file(run.label, self._text_cell(run)).with_suffix(".lock"))

    def figures(self, run: RowRun) -> Figures | None:
        """Return the figures of a run on the text, if they were measured."""
        return self.folder.read_as(Figures, run.label, self._text_cell(run))

    def keep_figures(self, run: RowRun, figures: Figures) -> None:
        """Keep the figures of a run on the text."""
        self.folder.keep(run.label, self._text_cell(run), vars(figures))

    def accuracies(self, run: RowRun, task: str) -> dict[str, Accuracy] | None:
        """Return the accuracies of a run on a task, if they were measured."""
        return self.folder.read_as(dict[str, Accuracy], f"{run.label}, {task}", self._task_cell(run, task))

    def keep_accuracies(self, run: RowRun, task: str, found: Mapping[str, Accuracy]) -> None:
        """Keep the accuracies of a run on a task."""
        held = {name: vars(score) for name, score in found.items()}
        self.folder.keep(f"{run.label}, {task}", self._task_cell(run, task), held)

    def adapter(self, run: RowRun) -> str:
        """Return the name of the run's adapter, which says what it is made from."""
        return file_stem(run.label, self._program(run))

    def _text_cell(self, run: RowRun) -> dict[str, Any]:
        return {"what": "perplexity", "text": self.setup.text.digest, **self.setup.extent, **self._program(run)}

    def _task_cell(self, run: RowRun, task: str) -> dict[str, Any]:
        return {"what": "task", **self.setup.benchmarks.depends_on(task), **self._program(run)}

    def _program(self, run: RowRun) -> dict[str, Any]:
        """Return what the program depends on; files that its passes name are read once."""
        if run not in self._code:
            training = self.setup.training if run.is_trained else None
            self._code[run] = {
                **self._model,
                "training": None if training is None else training.depends_on(),
                **code_of(self.setup.passes(run.pipeline), measure, Benchmarks),
            }
        return self._code[run]
