"""`dipc eval --tasks`: what it prints and how it ends."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from kit.command_line import Cli
from kit.task_data import some_tasks, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def test_the_table_has_dense_beside_sparse(cli: Cli, out: Path, folder: Path) -> None:
    result = cli("eval", out, "--tasks", "hellaswag,mmlu_anatomy", "--task-data", folder, "--limit", 2)
    assert (result.code, result.err) == (0, "")
    title, header, *rows = result.out.splitlines()
    assert title.endswith("at most 2 questions of each")
    assert header.split() == ["task", "metric", "n-shot", "questions", "dense", "+-", "dip-ca", "+-"]
    assert [row.split()[:4] for row in rows] == [
        ["hellaswag", "acc", "0", "2"],
        ["hellaswag", "acc_norm", "0", "2"],
        ["mmlu_anatomy", "acc", "5", "2"],
    ]
    assert all(len(line) <= 80 for line in [title, header, *rows])


def test_json_has_all_that_the_scores_depend_on(cli: Cli, out: Path, folder: Path) -> None:
    options = ("--task-data", folder, "--fewshot", 1, "--seed", 3, "--no-dense", "--json")
    document = cli("eval", out, "--tasks", "mmlu_anatomy", *options).json()
    assert document["kind"] == "tasks"
    assert (document["seed"], document["limit"], document["backend"]) == (3, None, "eager")
    assert document["method"]["name"] == "dip-ca"
    assert document["harness"] == {"name": "lm_eval", "version": version("lm_eval")}
    assert document["data"]["folder"] == str(folder)
    (score,) = document["scores"]
    assert (score["task"], score["metric"], score["fewshot"], score["count"]) == ("mmlu_anatomy", "acc", 1, 3)
    assert score["dense"] is None


def test_finished_tasks_are_shown_and_the_failed_one_is_named(cli: Cli, model: Path, folder: Path) -> None:
    result = cli("eval", model, "--tasks", "mmlu_anatomy,mmlu_virology", "--task-data", folder, "--limit", 1)
    assert "mmlu_anatomy" in result.out
    result.fails(5, "mmlu_virology: ", "virology_dev.csv: cannot be read")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--tasks", "mmlu", "--max-tokens", 9), ("eval: --max-tokens: this is for perplexity",)),
        (("--limit", 3), ("eval: --limit: this is for --tasks",)),
        (("--no-dense",), ("eval: --no-dense: this is for --tasks",)),
        (("--tasks", ","), ("name the tasks",)),
        (("--tasks", "mmlu", "--limit", 0), ("--limit",)),
    ],
)
def test_options_that_say_nothing_are_refused(
    cli: Cli, model: Path, options: tuple[object, ...], parts: tuple[str]
) -> None:
    cli("eval", model, *options).fails(2, *parts)


def test_a_misspelled_task_is_guessed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.evaluation.tasks.harness.TaskManager", some_tasks)
    # Asked before the model is opened, which may take minutes.
    cli("eval", "no/such/model", "--tasks", "piqua").fails(2, "no task named 'piqua'; did you mean 'piqa'?")
