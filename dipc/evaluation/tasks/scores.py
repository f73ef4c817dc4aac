"""Scores of tasks, with all that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dipc.errors import DipcError
from dipc.ir.identity import Identity
from dipc.ir.program import Method


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task or group of tasks.

    `group` is the group that it is part of, "" for what was asked for by name; `members` says how many tasks a group
    sums up, 0 for a task. `filter` is the harness's name for how an answer was read off a text, "none" where nothing
    was. `count` are questions, `fewshot` the examples before each; `dense` is the dense model's value.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    count: int
    fewshot: int
    version: str
    higher_is_better: bool
    group: str = ""
    members: int = 0
    dense: float | None = None
    dense_stderr: float | None = None


@dataclass(frozen=True)
class TaskScores:
    """Measurements of a model on tasks, and the tasks that failed.

    `harness` is lm_eval's version, `data` the folder of local files ("" for the hub) and `data_digest` their digest;
    `failures` has the reason for each task that gave no score.
    """

    model: str
    digest: str
    method: Method
    backend: str
    harness: str
    seed: int
    limit: int | None
    data: str
    data_digest: str
    scores: tuple[TaskScore, ...]
    failures: Mapping[str, DipcError] = field(default_factory=dict)

    def score(self, task: str, metric: str = "") -> TaskScore:
        """A task's score; by default its first metric. KeyError if there is none."""
        found = next((s for s in self.scores if s.task == task and metric in ("", s.metric)), None)
        if found is None:
            raise KeyError(f"{task} {metric}".strip())
        return found


def read_results(own: Mapping[str, Any], dense: Mapping[str, Any] | None) -> list[TaskScore]:
    """The harness's results of one task, group or tag as scores: groups before their members.

    Args:
        own: what `lm_eval.evaluate` gave.
        dense: the same of the dense model.
    """
    members: Mapping[str, list[str]] = own["group_subtasks"]
    parents = {child: group for group, children in members.items() for child in children}
    found: list[TaskScore] = []
    for name in _in_order(own["results"], members, parents):
        for key, value in own["results"][name].items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            beside = {} if dense is None else dense["results"][name]
            error = f"{metric}_stderr,{filter_name}"
            found.append(
                TaskScore(
                    task=name,
                    metric=metric,
                    filter=filter_name,
                    value=float(value),
                    stderr=_number(own["results"][name].get(error)),
                    count=int(own["results"][name].get("sample_len", 0)),
                    fewshot=_fewshot(own, name),
                    version=str(own["versions"].get(name, "")),
                    higher_is_better=bool(own["higher_is_better"].get(name, {}).get(metric, True)),
                    group=parents.get(name, ""),
                    members=_leaves(name, members) if name in members else 0,
                    dense=_number(beside.get(key)),
                    dense_stderr=_number(beside.get(error)),
                )
            )
    return found


def identity_fields(model: Identity) -> dict[str, Any]:
    """Return what runs, as `TaskScores` names it."""
    return {"model": model.name, "digest": model.digest, "method": model.method, "backend": model.backend}


def _in_order(results: Mapping[str, Any], members: Mapping[str, list[str]], parents: Mapping[str, str]) -> list[str]:
    ordered: list[str] = []

    def visit(name: str) -> None:
        ordered.append(name)
        for child in members.get(name, ()):
            visit(child)

    for name in results:
        if name not in parents:
            visit(name)
    return ordered


def _leaves(name: str, members: Mapping[str, list[str]]) -> int:
    return sum(_leaves(child, members) for child in members[name]) if name in members else 1


def _fewshot(results: Mapping[str, Any], name: str) -> int:
    """The harness says the number of a group only where its members agree; then so do the first one's."""
    children = results["group_subtasks"].get(name)
    given = results["n-shot"].get(name)
    return int(given) if isinstance(given, int) else _fewshot(results, children[0]) if children else 0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
