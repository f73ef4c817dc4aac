"""`dipc eval --tasks`: scores of the LM Evaluation Harness's tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dipc.cli.terminal import counting, show, show_json, working
from dipc.errors import UsageError
from dipc.options import MOST_SEED, Flag, Options

if TYPE_CHECKING:
    from dipc.backends import RunOptions
    from dipc.backends._session import Session
    from dipc.ir.program import Program


@dataclass(frozen=True)
class TaskFlags(Options):
    """Tasks in place of perplexity, and which of their questions."""

    tasks: Annotated[
        str | None,
        Flag("In place of perplexity: tasks of lm_eval with commas between, such as mmlu,hellaswag.", "NAMES"),
    ] = None
    task_data: Annotated[
        Path | None, Flag("Read mmlu and hellaswag from files here, not from the hub.", metavar="FOLDER")
    ] = None
    fewshot: Annotated[
        int | None, Flag("Examples before each question; the task's own, 5 for mmlu.", metavar="N", min=0)
    ] = None
    limit: Annotated[int | None, Flag("Only the first N questions of each task.", metavar="N", min=1)] = None
    seed: Annotated[int | None, Flag("Of the choice of examples; 0 by default.", metavar="N", min=0, max=MOST_SEED)] = (
        None
    )
    dense: Annotated[
        bool, Flag("Do not run the dense model beside a sparse one on tasks.", name="--no-dense", bare=False)
    ] = True


def check_options(questions: TaskFlags, of_text: Mapping[str, Any]) -> None:
    """UsageError if an option is given that says nothing for what is measured."""
    of_tasks = {f.name: getattr(questions, f.name) for f in dataclasses.fields(questions) if f.name != "tasks"}
    of_tasks["no_dense"] = None if of_tasks.pop("dense") else True
    given = of_text if questions.tasks is not None else of_tasks
    strange = next((name for name, value in given.items() if value is not None), None)
    if strange is not None:
        reason = "this is for perplexity, not for --tasks" if questions.tasks is not None else "this is for --tasks"
        raise UsageError(f"eval: --{strange.replace('_', '-')}: {reason}")


def check_names(tasks: str, data: Path | None) -> None:
    """Tell what can be told of the tasks before the model is opened, which may take long."""
    with working("looking the tasks up"):
        from dipc.evaluation.tasks.run import check_tasks

        check_tasks(tasks.split(","), data)


def score_tasks(
    model: Program | Session, questions: TaskFlags, runner: RunOptions, trust_remote_code: bool, json: bool
) -> None:
    """Run the tasks and print their scores, then end with the first failure if there was one."""
    from dipc import api
    from dipc.evaluation.tasks.run import TaskOptions
    from dipc.report.tasks import tasks_dict, tasks_table

    assert questions.tasks is not None
    asked = TaskOptions(questions.task_data, questions.fewshot, questions.limit, questions.seed or 0, trust_remote_code)
    with counting("requests") as progress:
        scores = api.run_tasks(
            model,
            questions.tasks.split(","),
            questions=asked,
            dense=questions.dense,
            runner=runner,
            progress=progress,
        )
    if json:
        show_json(tasks_dict(scores))
    else:
        show([tasks_table(scores)])
    for error in scores.failures.values():
        count = len(scores.failures)
        more = "" if count == 1 else f" ({count} tasks failed; --json names them all)"
        raise type(error)(f"{error}{more}")
