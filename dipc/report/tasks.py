"""Scores of tasks, dense beside sparse where both were run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from dipc.documents import JsonObject, document
from dipc.quantities import NONE, number
from dipc.report.table import table

if TYPE_CHECKING:
    from dipc.evaluation.tasks.scores import TaskScore, TaskScores


def tasks_dict(scores: TaskScores) -> JsonObject:
    """All scores, of members of groups too, and all that they depend on."""
    return document(
        "tasks",
        model={"name": scores.model, "digest": scores.digest},
        method=scores.method,
        backend=scores.backend,
        harness={"name": "lm_eval", "version": scores.harness},
        seed=scores.seed,
        limit=scores.limit,
        data={"folder": scores.data, "digest": scores.data_digest} if scores.data else "hub",
        scores=scores.scores,
        failures={name: str(error) for name, error in scores.failures.items()},
    )


def tasks_table(scores: TaskScores) -> Group:
    """A line a metric: of what was asked for and of the groups in it, not of a group's single tasks."""
    beside = any(score.dense is not None for score in scores.scores)
    columns = ["task", "metric", ">n-shot", ">questions", *([">dense", ">+-"] if beside else [])]
    rows = [_row(score, beside) for score in scores.scores if score.members or not score.group]
    return table(_title(scores), (*columns, f">{scores.method.name}", ">+-"), rows)


def _row(score: TaskScore, beside: bool) -> list[str]:
    metric = score.metric if score.filter == "none" else f"{score.metric} ({score.filter})"
    dense = [_value(score.dense), _value(score.dense_stderr)] if beside else []
    name = f"  {score.task}" if score.group else score.task
    return [name, metric, str(score.fewshot), number(score.count), *dense, _value(score.value), _value(score.stderr)]


def _value(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _title(scores: TaskScores) -> str:
    title = f"{scores.model} on tasks of lm_eval {scores.harness}"
    title += "" if scores.limit is None else f", at most {scores.limit} questions of each"
    title += "; contexts dense" if scores.method.scope == "decode" else ""
    return title if scores.backend == "eager" else f"{title}; {scores.backend}"
