"""The tasks of a comparison: accuracy beside perplexity, where the LM Evaluation Harness is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dipc.documents import JsonObject
from dipc.evaluation.tasks.local import LocalData
from dipc.evaluation.tasks.run import TaskOptions, run_tasks
from dipc.ir.program import Program
from dipc.studies.compare.result import Accuracy


@dataclass(frozen=True)
class Benchmarks:
    """Tasks by the harness's names, and how they are run: the arguments of `run_tasks`."""

    tasks: tuple[str, ...]
    data: Path | None = None
    fewshot: int | None = None
    limit: int | None = None
    seed: int = 0

    def depends_on(self, task: str) -> JsonObject:
        """Return what a task's score depends on besides the model."""
        return {
            "task": task,
            "data": None if self.data is None else LocalData(self.data).digest,
            "fewshot": self.fewshot,
            "limit": self.limit,
            "seed": self.seed,
            "harness": version("lm_eval"),
        }

    def run(self, program: Program, task: str, watch: Callable[[int, int], None]) -> dict[str, Accuracy]:
        """Return what a task gives: its first metric; of a group the whole's, of a tag each of its tasks'."""
        questions = TaskOptions(self.data, self.fewshot, self.limit, self.seed)
        scores = run_tasks(program, [task], questions=questions, progress=watch).scores
        found: dict[str, Accuracy] = {}
        for score in scores:
            if not score.group:
                accuracy = Accuracy(score.metric, score.value, score.stderr, score.count, score.fewshot)
                found.setdefault(score.task, accuracy)
        return found
