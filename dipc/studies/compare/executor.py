"""Execute the runs of a comparison: compile a row's pipeline, train its adapter, measure it on the text and tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

from dipc.backends import get_backend
from dipc.errors import CalibrationNeeded, UnsupportedModel, UsageError
from dipc.ir.program import Program
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import run_pipeline
from dipc.studies.compare.measure import measure, of_dense
from dipc.studies.compare.prepare import adapter
from dipc.studies.compare.result import Figures
from dipc.studies.compare.store import RowResult, RowRun, RowStore
from dipc.studies.engine.dense_session import CachedDenseSession
from dipc.studies.engine.run import Refused, RunExecutor, Watch
from dipc.studies.method_rows import ADAPTER, LORA


class RowExecutor(RunExecutor[RowRun, RowResult]):
    """Executes the runs of a comparison.

    Args:
        store: finished ones.
        program: the dense model, its MLPs outlined.
    """

    def __init__(self, store: RowStore, program: Program) -> None:
        self.store: RowStore = store
        self.program = program
        with get_backend("eager", "run").open(program) as session:
            self.dense = CachedDenseSession(session, folder=store.folder.path)

    def make(self, run: RowRun, watch: Watch) -> None:
        """Make the parts of a run that are missing, each kept when it is finished."""
        setup, row = self.store.setup, _Row(self, run, watch)
        if self.store.figures(run) is None:
            self.store.keep_figures(run, row.figures())
        for number, task in enumerate(setup.benchmarks.tasks, 1):
            if self.store.accuracies(run, task) is None:
                found = setup.benchmarks.run(row.program, task, row.part(number, f"{run.label}, {task}"))
                self.store.keep_accuracies(run, task, found)


@dataclasses.dataclass
class _Row:
    """A run that is being made."""

    executor: RowExecutor
    run: RowRun
    watch: Watch

    def part(self, number: int, what: str) -> Callable[[int, int], None]:
        """Return what a part of the run is watched with, and say that it has begun."""
        parts = 1 + len(self.executor.store.setup.benchmarks.tasks)
        self.watch(number / parts, what)
        return lambda done, total: self.watch((number + done / max(1, total)) / parts, what)

    def figures(self) -> Figures:
        """Return the figures on the text."""
        executor, setup = self.executor, self.executor.store.setup
        if not self.run.pipeline:
            watch = self.part(0, self.run.label)
            return of_dense(executor.program, executor.dense, setup.text, watch, **setup.extent)
        program, watch = self.program, self.part(0, self.run.label)
        return measure(program, executor.program, executor.dense, setup.text, watch, **setup.extent)

    @cached_property
    def program(self) -> Program:
        """The program that the passes make of the dense model, its adapter trained first."""
        passes = self.executor.store.setup.passes(self.run.pipeline)
        if self.run.is_trained:
            passes = [_with_adapter(item, self._adapter(passes)) for item in passes]
        try:
            return run_pipeline(self.executor.program, passes).program if passes else self.executor.program
        except CalibrationNeeded as error:
            raise Refused("needs a calibration: give --calibration-text or --calibration") from error
        except (UsageError, UnsupportedModel) as error:
            raise Refused(str(error)) from error

    def _adapter(self, passes: list[Pass]) -> str:
        store, others = self.executor.store, [item for item in passes if item.name != LORA]
        training, watch = store.setup.training, self.part(0, f"training {self.run.label}")
        assert training is not None
        return str(adapter(store.folder, store.adapter(self.run), self.executor.program, others, training, watch))


def _with_adapter(item: Pass, folder: str) -> Pass:
    return dataclasses.replace(item, adapter=folder) if getattr(item, "adapter", "") == ADAPTER else item  # type: ignore[call-arg]
