"""Making cells: what the figures of one depend on, and what becomes of a method that cannot be measured."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dipc.backends._session import Session
from dipc.errors import CalibrationNeeded, DipcError, UnsupportedModel, UsageError
from dipc.frontend.tracer import first_line
from dipc.ir.program import Program
from dipc.pipeline.fingerprint import described
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import run_pipeline, with_calibration
from dipc.pipeline.text import parse_pipeline
from dipc.studies.compare.benchmarks import Benchmarks
from dipc.studies.compare.entries import ADAPTER, LORA, Entry
from dipc.studies.compare.folder import Folder, file_stem
from dipc.studies.compare.measure import Watch, measure, of_dense
from dipc.studies.compare.prepare import Training, adapter
from dipc.studies.compare.result import Accuracy, Figures, Row
from dipc.text import Text
from dipc.version import __version__

Progress = Callable[[float, int, str], None]
log = logging.getLogger("dipc.studies.compare")


@dataclass
class Cells:
    """Everything that all cells of a comparison share, and how far it is.

    Attributes:
        program: the captured model, its MLPs outlined.
        dense: what runs it.
        folder: where finished cells are.
        text: what is measured on, in windows of `seq_len` tokens, `max_tokens` in all.
        calibration: the file that calibrated methods read, if there is one.
        training: how adapters are trained, if they can be.
        benchmarks: the tasks; there may be none.
        total: cells in all.
        progress: called with cells done, cells in all, and what is at work.
    """

    program: Program
    dense: Session
    folder: Folder
    text: Text
    seq_len: int
    max_tokens: int | None
    calibration: Path | None
    training: Training | None
    benchmarks: Benchmarks
    total: int
    progress: Progress | None = None
    done: int = 0

    def of_dense(self) -> Row:
        """The dense model's row. What fails here would fail everywhere, so it raises."""
        cell = _Cell(self, "dense", [], None)
        figures = cell.figures(lambda watch: of_dense(self.program, self.dense, self.text, watch, **self.extent))
        return Row("dense", "dense", "dense", None, "", figures, cell.all_tasks())

    def of_entry(self, entry: Entry, density: float | None) -> Row:
        """A method's row at a density; a reason stands for figures that there are not."""
        row = Row(entry.name, entry.label, entry.kind, density, entry.pipeline(density))
        until = self.done + 1 + len(self.benchmarks.tasks)
        try:
            cell = self._cell(entry, density)
            row = dataclasses.replace(row, figures=cell.figures(cell.measured))
            row = dataclasses.replace(row, tasks=cell.all_tasks())
        except _Refused as error:
            row = dataclasses.replace(row, reason=str(error))
        except Exception as error:
            log.warning("%s", row.pipeline, exc_info=True)
            reason = str(error) if isinstance(error, DipcError) else f"{type(error).__name__}: {first_line(error)}"
            row = dataclasses.replace(row, reason=reason, failed=True)
        self.done = until
        return row

    def _cell(self, entry: Entry, density: float | None) -> _Cell:
        label = entry.label if density is None else f"{entry.label} {density:g}"
        if entry.is_trained and self.training is None:
            raise _Refused("needs an adapter: give a text to train it on, --calibration-text or --train-text")
        try:
            passes = parse_pipeline(entry.pipeline(density))
        except UsageError as error:
            raise _Refused(str(error)) from error
        if self.calibration is not None:
            passes = with_calibration(passes, str(self.calibration))
        return _Cell(self, label, passes, self.training if entry.is_trained else None)

    @property
    def extent(self) -> dict[str, Any]:
        """What of the text is measured on."""
        return {"seq_len": self.seq_len, "max_tokens": self.max_tokens}

    def say(self, what: str, part: float) -> None:
        """Report that so much of a cell is done."""
        if self.progress is not None:
            self.progress(self.done + part, self.total, what)


@dataclass
class _Cell:
    """A pipeline, as parsed, and the training of its adapter if it has one."""

    shared: Cells
    label: str
    passes: list[Pass]
    training: Training | None

    def figures(self, make: Callable[[Watch], Figures]) -> Figures:
        """From the cell's file, or made now and kept."""
        shared = self.shared
        depends_on = {"what": "perplexity", "text": shared.text.digest, **shared.extent, **self._depends_on()}
        held = self._kept(self.label, depends_on, lambda watch: vars(make(watch)))
        return Figures(**{name: None if value is None else float(value) for name, value in held.items()})  # type: ignore[arg-type]

    def all_tasks(self) -> dict[str, Accuracy]:
        """Every task's accuracies, each task kept by itself."""
        found: dict[str, Accuracy] = {}
        for task in self.shared.benchmarks.tasks:
            found |= self._task(task)
        return found

    def _task(self, task: str) -> dict[str, Accuracy]:
        benchmarks = self.shared.benchmarks

        def make(watch: Watch) -> dict[str, Any]:
            return {name: vars(score) for name, score in benchmarks.run(self.program, task, watch).items()}

        depends_on = {"what": "task", **benchmarks.depends_on(task), **self._depends_on()}
        held = self._kept(f"{self.label}, {task}", depends_on, make)
        return {name: Accuracy(**score) for name, score in held.items()}

    def measured(self, watch: Watch) -> Figures:
        """The figures of the program that the passes make."""
        shared = self.shared
        return measure(self.program, shared.program, shared.dense, shared.text, watch, **shared.extent)

    @cached_property
    def program(self) -> Program:
        """What the passes make of the model, its adapter trained first."""
        passes = self.passes
        if self.training is not None:
            passes = [_with_adapter(item, str(self._adapter())) for item in passes]
        try:
            return run_pipeline(self.shared.program, passes).program if passes else self.shared.program
        except CalibrationNeeded as error:
            raise _Refused("needs a calibration: give --calibration-text or --calibration") from error
        except (UsageError, UnsupportedModel) as error:
            raise _Refused(str(error)) from error

    def _adapter(self) -> Path:
        assert self.training is not None
        others = [item for item in self.passes if item.name != LORA]
        name = file_stem(self.label, self._depends_on())
        watch = self._watch(f"training {self.label}")
        return adapter(self.shared.folder, name, self.shared.program, others, self.training, watch)

    def _depends_on(self) -> dict[str, Any]:
        return {
            "model": self.shared.program.info.digest,
            "pipeline": [described(item) for item in self.passes],
            "training": None if self.training is None else self.training.depends_on(),
            "versions": {"dipc": __version__, "torch": torch.__version__},
        }

    def _kept(
        self, label: str, depends_on: Mapping[str, Any], make: Callable[[Watch], dict[str, Any]]
    ) -> dict[str, Any]:
        """What a file of the folder holds, or what is made now and kept there."""
        self.shared.say(label, 0.0)
        held = self.shared.folder.read(label, depends_on)
        if held is None:
            held = make(self._watch(label))
            self.shared.folder.keep(label, depends_on, held)
        self.shared.done += 1
        return held

    def _watch(self, label: str) -> Watch:
        return lambda done, total: self.shared.say(label, done / max(1, total))


class _Refused(Exception):
    """A method cannot do what was asked: no failure, and nothing that a second try would change."""


def _with_adapter(item: Pass, folder: str) -> Pass:
    return dataclasses.replace(item, adapter=folder) if getattr(item, "adapter", "") == ADAPTER else item  # type: ignore[call-arg]
