"""Comparisons from Python: what is made, what is made again, and what is kept when something fails."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import fx

from dipc.api import Program, Text, capture, compare, compile, evaluate, to_markdown
from dipc.errors import MissingDependency, UsageError
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.pass_ import PASSES
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.report import study_folder
from dipc.studies.compare import Comparison, measure
from dipc.studies.compare.result import Accuracy
from dipc.studies.compare.store import COMPARISON
from dipc.studies.engine.folder import Folder
from kit.byte_text import WORDS

TEXT = Text("words", WORDS * 2)


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return capture(model)


@dataclass(frozen=True)
class Broken(SparsityPass):
    """Fails where no method should."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        raise ZeroDivisionError("broken on purpose")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plot, which takes longer than all the rest, and as where there is no matplotlib."""

    def absent(found: Comparison) -> None:
        raise MissingDependency("no matplotlib")

    if "plotted" not in request.node.name:
        monkeypatch.setattr(study_folder, "perplexity_plot", absent)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of all evaluations from now on."""
    seen: list[str] = []

    def spy(program: Program, *args: Any, **options: Any) -> Any:
        seen.append(program.method.options)
        return evaluate(program, *args, **options)

    monkeypatch.setattr(measure, "evaluate", spy)
    return seen


def test_a_comparison(program: Program, tmp_path: Path) -> None:
    found = compare(program, "dip,up,wina", (0.6, 0.3), text=TEXT, out=tmp_path)
    assert [(row.label, row.density) for row in found.rows] == [
        (label, d) for d in (0.6, 0.3) for label in ("dip", "up", "wina")
    ]
    alone = evaluate(compile(program, "dip{density=0.6}").program, TEXT)
    row = found.rows[0].figures
    assert row is not None and found.dense.figures is not None
    assert row.perplexity == pytest.approx(alone.perplexity)
    assert row.kl_to_dense == pytest.approx(alone.kl_to_dense, rel=1e-3)
    assert found.dense.figures.perplexity == pytest.approx(alone.dense_perplexity)
    assert (found.dense.figures.kl_to_dense, found.dense.figures.density) == (0, 1)
    assert found.protocol["tokens scored"] == alone.tokens
    refused = found.block(0.3)[1]
    assert refused.figures is None and "cannot be reached" in str(refused.reason) and not refused.failed
    assert not found.failures
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["figures"]["perplexity"] == row.perplexity
    assert (tmp_path / "table.md").read_text() == to_markdown(found)
    assert not (tmp_path / "perplexity.svg").exists()


def test_a_comparison_is_plotted(program: Program, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    assert (tmp_path / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert b"words" in (tmp_path / "perplexity.svg").read_bytes()


def test_a_rerun_makes_only_what_is_missing(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    first = compare(program, "dip,wina", (0.5,), text=TEXT, out=tmp_path)
    assert len(seen) == 2
    second = compare(program, "dip,wina,up", (0.5, 0.4), text=TEXT, out=tmp_path)
    assert sorted(seen[2:]) == ["dip{density=0.4}", "up", "up{density=0.4}", "wina{density=0.4}"]
    assert second.block(0.5)[:2] == first.rows and second.dense == first.dense
    assert compare(program, "dip,wina,up", (0.5, 0.4), text=TEXT, out=tmp_path) == second
    assert len(seen) == 6


def test_a_killed_run_keeps_what_it_had(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(program: Program, *args: Any, **options: Any) -> Any:
        if program.method.name == "up":
            raise KeyboardInterrupt
        return evaluate(program, *args, **options)

    monkeypatch.setattr(measure, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(program, "dip,up,wina", (0.5,), text=TEXT, out=tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".tmp")]
    seen = counted(monkeypatch)
    compare(program, "dip,up,wina", (0.5,), text=TEXT, out=tmp_path)
    assert seen == ["up", "wina"]


def test_one_failure_does_not_lose_the_others(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASSES.added, "broken", (Broken, "broken.py"))
    found = compare(program, "broken,dip", (0.5,), text=TEXT, out=tmp_path)
    assert [(row.label, row.reason) for row in found.failures] == [("broken", "ZeroDivisionError: broken on purpose")]
    assert found.rows[1].figures is not None
    assert "broken on purpose" in to_markdown(found)
    monkeypatch.setattr(Broken, "rewrite", lambda self, mlp: mlp.linear(mlp.x, mlp.up))
    seen = counted(monkeypatch)
    compare(program, "broken,dip", (0.5,), text=TEXT, out=tmp_path)
    assert len(seen) == 0  # it fails anew: the shapes do not fit


def test_a_changed_file_makes_its_cells_anew(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    monkeypatch.setattr("inspect.getsource", lambda module: "another code")
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    assert len(seen) == 2


def test_a_changed_core_makes_all_cells_anew(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    first = compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    cells = len(list((tmp_path / "cells").iterdir()))
    monkeypatch.setattr("dipc.studies.engine.code.core_digest", lambda: "another")
    assert compare(program, "dip", (0.5,), text=TEXT, out=tmp_path) == first
    assert len(seen) == 2 and len(list((tmp_path / "cells").iterdir())) == 2 * cells
    assert not list(tmp_path.rglob("*.lock"))


def test_progress_counts_every_cell(program: Program, tmp_path: Path) -> None:
    said: list[tuple[float, int, str]] = []
    for _ in range(2):
        compare(program, "dip,up", (0.5,), text=TEXT, out=tmp_path, progress=lambda *now: said.append(now))
        compare(program, "dip,up", (0.5, 0.4), text=TEXT, out=tmp_path, progress=lambda *now: said.append(now))
    done = [part for part, *_ in said]
    assert {total for _, total, _ in said} == {3, 5} and max(done) == 5
    assert [what for _, _, what in said if what != "dense"][:1] == ["dip 0.5"]


def test_without_a_calibration_the_rows_that_need_one_say_so(program: Program, tmp_path: Path) -> None:
    found = compare(program, "cats,dip,dip+lora", (0.5,), text=TEXT, out=tmp_path)
    assert "needs a calibration: give --calibration-text" in str(found.rows[0].reason)
    assert "needs an adapter" in str(found.rows[2].reason)
    assert not found.failures


def test_an_adapter_is_trained_once_and_counts_no_overhead(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    options: dict[str, Any] = {"text": TEXT, "train_text": Text("more", WORDS * 8), "rank": 2, "iterations": 2}
    first = compare(program, "dip,dip+lora", (0.5,), out=tmp_path, **options)
    figures = first.rows[1].figures
    assert first.rows[1].kind == "lora" and figures is not None, first.rows[1].reason
    assert figures.overhead_bytes == 0 and first.best(0.5) is first.rows[0]
    (adapter,) = (tmp_path / "adapters").iterdir()
    seen = counted(monkeypatch)
    assert compare(program, "dip,dip+lora", (0.5,), out=tmp_path, **options) == first
    compare(program, "dip+lora", (0.5,), out=tmp_path, **{**options, "iterations": 1})
    assert len(seen) == 1 and len(list(adapter.parent.iterdir())) == 2


def test_tasks_stand_beside_perplexity(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dipc.studies.compare.benchmarks import Benchmarks

    ran: list[tuple[str, str]] = []

    def run(self: Benchmarks, program: Program, task: str, watch: Any) -> dict[str, Accuracy]:
        ran.append((program.method.name, task))
        if (program.method.name, task) == ("up", "piqa"):
            raise UsageError("no data")
        return {task: Accuracy("acc", 0.5, 0.01, 100, 0)}

    monkeypatch.setattr(Benchmarks, "run", run)
    monkeypatch.setattr(Benchmarks, "depends_on", lambda self, task: {"task": task})
    first = compare(program, "dip,up", (0.5,), text=TEXT, out=tmp_path, tasks=["piqa"])
    assert ran == [("dense", "piqa"), ("dip", "piqa"), ("up", "piqa")]
    assert first.dense.tasks["piqa"].value == 0.5
    up = first.rows[1]
    assert up.figures is not None and not up.tasks and (up.reason, up.failed) == ("no data", True)
    assert "| 50.0 ± 1.0 % |" in to_markdown(first)
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path, tasks=["piqa", "mmlu"])
    assert ran[3:] == [("dense", "mmlu"), ("dip", "mmlu")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": Text("other", WORDS)}, "text words, and this one has other"),
        ({"text": Text("words", WORDS)}, "text digest"),
        ({"seq_len": 16}, "tokens of a window 64, and this one has 16"),
        ({"max_tokens": 32}, "tokens at most none, and this one has 32"),
        ({"densities": (0.5, 1.5)}, "density: 1.5 is outside"),
        ({"densities": ()}, "the list is empty"),
        ({"seq_len": 1000}, "seq_len is 1000"),
        ({"text": Text("short", "a")}, "leave nothing to predict"),
        ({"calibration": "a", "calibration_text": "b"}, "not both"),
        ({"calibration": "a"}, "there is no"),
    ],
)
def test_bad_input(program: Program, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"methods": "dip", "densities": (0.5,), "text": TEXT, "out": tmp_path / "out"}
    compare(program, **good)
    with pytest.raises(Exception, match=message):
        compare(program, **{**good, **change})


def test_another_model_is_refused(program: Program, tmp_path: Path) -> None:
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    other = replace(program, info=replace(program.info, digest="0123"))
    with pytest.raises(UsageError, match=f"model digest {program.info.digest}, and this one has 0123"):
        compare(other, "dip", (0.5,), text=TEXT, out=tmp_path)


def test_a_folder_that_a_killed_process_began_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".comparison.json.12345678.tmp").write_text("{")
    folder = Folder(tmp_path, {"model": "tiny"}, COMPARISON)
    folder.write("cells/a.json", b"{}")
    with pytest.raises(UsageError, match="with model tiny, and this one has other"):
        Folder(tmp_path, {"model": "other"}, COMPARISON)


def test_a_folder_of_something_else_is_refused(program: Program, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds other files"):
        compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    with pytest.raises(UsageError, match="this is a file"):
        compare(program, "dip", (0.5,), text=TEXT, out=tmp_path / "letter.txt")


def test_a_model_that_is_no_start_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compiled with dip already"):
        compare(compile(program, "dip").program, "dip", (0.5,), text=TEXT, out=tmp_path)
    bare = replace(program, info=replace(program.info, has_weights=False))
    with pytest.raises(UsageError, match="config alone"):
        compare(bare, "dip", (0.5,), text=TEXT, out=tmp_path)
