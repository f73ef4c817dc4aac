"""`dipc eval --tasks`: scores of the LM Evaluation Harness's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipc.cli.terminal import MOST_SEED, counting, show, show_json, working
from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.backends._session import Session
    from dipc.ir.program import Program

Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="NAMES",
        help="In place of perplexity: tasks of lm_eval with commas between, such as mmlu,hellaswag.",
    ),
]
TaskData = Annotated[
    Path | None,
    typer.Option("--task-data", metavar="FOLDER", help="Read mmlu and hellaswag from files here, not from the hub."),
]
FewShot = Annotated[
    int | None,
    typer.Option("--fewshot", metavar="N", min=0, help="Examples before each question; the task's own, 5 for mmlu."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N questions of each task.")
]
TaskSeed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, max=MOST_SEED, help="Of the choice of examples; 0 by default."),
]
NoDense = Annotated[bool, typer.Option("--no-dense", help="Do not run the dense model beside a sparse one on tasks.")]


def check_options(tasks: str | None, of_tasks: Mapping[str, Any], of_text: Mapping[str, Any]) -> None:
    """UsageError if an option is given that says nothing for what is measured."""
    given = of_text if tasks is not None else of_tasks
    strange = next((name for name, value in given.items() if value is not None and value is not False), None)
    if strange is not None:
        reason = "this is for perplexity, not for --tasks" if tasks is not None else "this is for --tasks"
        raise UsageError(f"eval: {strange}: {reason}")


def check_names(tasks: str, data: Path | None) -> None:
    """What can be told of the tasks before the model is opened, which may take long."""
    with working("looking the tasks up"):
        from dipc.evaluation.tasks.run import check_tasks

        check_tasks(tasks.split(","), data)


def score_tasks(model: Program | Session, tasks: str, json: bool, **options: Any) -> None:
    """Run the tasks and print their scores, then end with the first failure if there was one."""
    from dipc import api
    from dipc.report.tasks import tasks_dict, tasks_table

    with counting("requests") as progress:
        scores = api.run_tasks(model, tasks.split(","), progress=progress, **options)
    if json:
        show_json(tasks_dict(scores))
    else:
        show([tasks_table(scores)])
    for error in scores.failures.values():
        count = len(scores.failures)
        more = "" if count == 1 else f" ({count} tasks failed; --json names them all)"
        raise type(error)(f"{error}{more}")
