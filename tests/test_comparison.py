"""Comparisons from Python: which rows there are, what each costs, what is made again, and what is said of them."""

# ruff: noqa: F811 - fixtures are imported under the names of the arguments

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clitools import WORDS, byte_tokenizer, model  # noqa: F401
from helpers import outlined, random_ids
from torch import fx

from dipc.api import Program, Text, capture, compare, compile
from dipc.backends.eager import EagerSession
from dipc.calibration.file import Calibration
from dipc.comparison import Comparison, Row, measure, run
from dipc.comparison.entries import choose, known
from dipc.comparison.folder import Folder
from dipc.comparison.measure import Remembered, bytes_read
from dipc.comparison.result import Accuracy, Figures
from dipc.comparison.verdict import verdict
from dipc.errors import MissingDependency, UsageError
from dipc.evaluation import evaluate
from dipc.pipeline import PASSES
from dipc.report.plot import perplexity_plot
from dipc.sparsify import Glu, SparsityPass

TEXT = Text("words", WORDS * 2)
GOLDEN = Path(__file__).parent / "golden" / "comparison.md"


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return capture(model)


@dataclass(frozen=True)
class Broken(SparsityPass):
    """Fails where no method should."""

    def rewrite(self, glu: Glu) -> fx.Node:
        raise ZeroDivisionError("broken on purpose")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plot, which takes longer than all the rest, and as where there is no matplotlib."""

    def absent(found: Comparison) -> None:
        raise MissingDependency("no matplotlib")

    if "plotted" not in request.node.name:
        monkeypatch.setattr(run, "perplexity_plot", absent)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of all evaluations from now on."""
    seen: list[str] = []

    def spy(program: Program, *args: Any, **options: Any) -> Any:
        seen.append(program.method.options)
        return evaluate(program, *args, **options)

    monkeypatch.setattr(measure, "evaluate", spy)
    return seen


# Which rows


def test_a_name_is_a_row_at_every_density() -> None:
    (entry,) = choose("dip", [0.5])
    assert (entry.label, entry.pipeline(0.25)) == ("dip", "dip{density=0.25}")
    assert entry.stands_at(0.9) and not entry.stands_at(None)


def test_all_has_every_method_once_and_plug_ins_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES.added, "broken", (Broken, "broken.py"))
    names = [entry.name for entry in choose("all", [0.5])]
    methods = {n for n in PASSES.names() if issubclass(PASSES.get(n), SparsityPass)}
    assert methods <= set(names) and "broken" in names
    assert not any("lora" in name for name in names)


def test_the_rows_that_are_trained_are_there_when_asked_for() -> None:
    trained = [entry for entry in choose("all", [0.5], lora=True) if entry.is_trained]
    assert [entry.label for entry in trained] == ["cats + LoRA", "dip + LoRA"]
    assert [entry.label for entry in choose("dip+lora", [0.5])] == ["dip + LoRA"]


def test_the_oracle_keeps_a_share_of_the_glu_where_glu_pruning_cannot_go() -> None:
    entries = choose("glu", [0.7, 0.5])
    at = {d: [(e.label, e.pipeline(d)) for e in entries if e.stands_at(d)] for d in (0.7, 0.5)}
    assert at[0.5] == [("glu (oracle)", "glu{rho_glu=0.5}")]
    assert at[0.7] == [("glu (oracle)", "glu{rho_glu=0.7}"), ("glu", "glu{density=0.7}")]


def test_semi_structured_rows_stand_at_half_only() -> None:
    entries = choose("sparsegpt-2:4", [0.5])
    assert [d for d in (0.6, 0.5, 0.4, None) if entries[0].stands_at(d)] == [0.5]


@pytest.mark.parametrize(
    ("template", "label", "kind"),
    [
        ("int4,dip{density=DENSITY}", "int4,dip", "method"),
        ("dip-ca{density=DENSITY gamma=0.5}", "dip-ca{gamma=0.5}", "method"),
        ("fuse-lora{adapter=ADAPTER},up{density=DENSITY}", "up + LoRA", "lora"),
        ("fuse-lora{adapter=mine},dip{density=DENSITY}", "fuse-lora{adapter=mine},dip", "lora"),
        ("fuse-lora{adapter=ADAPTER},dip{density=DENSITY allocation=split}", "dip, split + LoRA", "lora"),
        ("int8{group=32}", "int8{group=32}", "method"),
    ],
)
def test_a_pipeline_is_a_row(template: str, label: str, kind: str) -> None:
    (entry,) = choose([template], [0.5])
    assert (entry.label, entry.kind) == (label, kind)
    assert entry.stands_at(None) == ("DENSITY" not in template)
    assert "DENSITY" not in entry.pipeline(0.5)


def test_the_folder_of_an_adapter_may_have_blanks_in_its_name() -> None:
    (entry,) = choose(["fuse-lora{adapter=ADAPTER},dip{density=DENSITY}"], [0.5])
    assert entry.pipeline(0.5, "my folder") == 'fuse-lora{adapter="my folder"},dip{density=0.5}'


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("dipp", "no method named 'dipp'; did you mean 'dip'?"),
        ("int4", "no sparsification method; name it in a pipeline"),
        ("", "the list is empty"),
        (["dip{density=DENSITY gama=1}"], "no option of dip named 'gama'"),
        (["dop{density=DENSITY}"], "no pass named 'dop'"),
        (["dip{density=DENSITY"], "cannot read"),
        (["dip{density=DENSITY scope=decode}"], "scope=decode"),
        (["dip{density=DENSITY},int4{group=ADAPTER}"], "whole number|ADAPTER"),
    ],
)
def test_what_is_no_row_is_said_at_once(methods: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(methods, [0.5])


def test_the_papers_rows_come_first_and_in_its_order() -> None:
    names = [entry.name for entry in known()]
    assert names.index("gate") < names.index("cats") < names.index("dip") < names.index("wina")


# What a cell costs


def test_bytes_of_dip_are_half_of_the_mlps() -> None:
    dense, program = outlined(), compile(outlined(), "dip{density=0.5}").program
    score = measured(program)
    mlp, resident, overhead = bytes_read(program, dense, score.trace)
    matrices = 2 * 3 * 32 * 48 * 4
    assert (mlp, overhead) == (matrices / 2, 0)
    # Attention, norms and head of 4 bytes a weight; of the embeddings a token reads one row.
    attention = 2 * (2 * 32 * 32 + 2 * 16 * 32)
    assert resident == 4 * (attention + 5 * 32 + 96 * 32)


def test_norms_of_columns_are_overhead() -> None:
    program = compile(outlined(), "wina{density=0.5}").program
    assert bytes_read(program, outlined(), measured(program).trace)[2] == 4 * 2 * (32 + 48)


def test_scales_are_overhead_and_those_of_a_unit_are_read_with_it() -> None:
    program = compile(outlined(), "int4{group=32 weights=mlp},dip{density=0.5}").program
    mlp, _, overhead = bytes_read(program, outlined(), measured(program).trace)
    # Two bytes for up to 32 weights of a column: two in each of 32 columns of up and gate, one in each of 48 of down.
    scales = 2 * (2 * 2 * 2 * 32 + 2 * 48)
    assert overhead == scales / 2
    assert mlp == (2 * 3 * 32 * 48 / 2 + scales) / 2


def test_mask_bits_are_overhead(tmp_path: Path) -> None:
    about = {"model": outlined().info.name, "digest": outlined().info.digest}
    file = tmp_path / "windows.safetensors"
    Calibration(about, {"windows": random_ids(64).reshape(2, 32)}).save(file)
    program = compile(outlined(), "sparsegpt{density=0.25}", calibration=file).program
    mlp, _, overhead = bytes_read(program, outlined(), None)
    count = 2 * 3 * 32 * 48
    assert overhead == count / 8
    assert mlp == pytest.approx(0.25 * 4 * count + count / 8)


def measured(program: Program) -> Any:
    """A score of a few random tokens, of a program that has no tokenizer."""
    return evaluate(replace(program, tokenizer=byte_tokenizer()), "abcd" * 8, seq_len=8, record=True)


def test_dense_logits_are_computed_once() -> None:
    session = Remembered(EagerSession(outlined()))
    calls: list[int] = []
    step = session.session.step

    def spy(ids: Any, *, dense: bool = False) -> Any:
        calls.append(len(ids))
        return step(ids, dense=dense)

    session.session.step = spy  # type: ignore[method-assign]
    first = session.step(random_ids(8)).logits
    session.step(random_ids(5, seed=1))
    assert torch.equal(session.step(random_ids(8)).logits, first)
    assert calls == [8, 5]


def test_what_does_not_fit_is_computed_again() -> None:
    session = Remembered(EagerSession(outlined()), most_bytes=0)
    assert torch.equal(session.step(random_ids(8)).logits, session.step(random_ids(8)).logits)


# Going over all cells


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
    assert (tmp_path / "table.md").read_text() == found.to_markdown()
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
    assert "broken on purpose" in found.to_markdown()
    monkeypatch.setattr(Broken, "rewrite", lambda self, glu: glu.linear(glu.x, glu.up))
    seen = counted(monkeypatch)
    compare(program, "broken,dip", (0.5,), text=TEXT, out=tmp_path)
    assert len(seen) == 0  # it fails anew: the shapes do not fit


def test_a_changed_file_makes_its_cells_anew(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    monkeypatch.setattr("inspect.getsource", lambda module: "another code")
    compare(program, "dip", (0.5,), text=TEXT, out=tmp_path)
    assert len(seen) == 2


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
    from dipc.comparison.benchmarks import Benchmarks

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
    assert "| 50.0 ± 1.0 % |" in first.to_markdown()
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
    folder = Folder(tmp_path, {"model": "tiny"})
    folder.write("cells/a.json", b"{}")
    with pytest.raises(UsageError, match="with model tiny, and this one has other"):
        Folder(tmp_path, {"model": "other"})


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


# What is said of the figures


def made_up(**perplexities: tuple[float, ...]) -> Comparison:
    """A comparison at densities 0.5 and 0.4 with these perplexities; dense has 20."""
    rows = []
    for place, density in enumerate((0.5, 0.4)):
        for name, values in perplexities.items():
            label = {"oracle": "glu (oracle)", "dip_lora": "dip + LoRA"}.get(name, name)
            kind = {"oracle": "oracle", "dip_lora": "lora"}.get(name, "method")
            figures = Figures(
                float(values[place]), 1.0, 0.1, (2 + density) / 3 if name == "oracle" else density, None, 4e6, 6e6, 0
            )
            if name == "predictor":
                figures = replace(figures, overhead_bytes=1.2e6)
            rows.append(Row(name, label, kind, density, f"{name}{{density={density}}}", figures))
    rows.append(Row("up", "up", "method", 0.4, "up{density=0.4}", reason="cannot be reached"))
    dense = Row("dense", "dense", "dense", None, "", Figures(20.0, 1.0, 0.0, 1.0, None, 8e6, 1e7, 0))
    model = {"name": "made up", "digest": "00", "bits per weight": 16.0}
    protocol = {"text": "words", "tokens of a window": 64, "tokens scored": 1000, "scope": "all", "seed": 0}
    found = Comparison(model, protocol, dense, tuple(rows))
    return replace(found, verdict=tuple(verdict(found)))


def test_the_papers_order_is_confirmed_in_plain_words() -> None:
    found = made_up(oracle=(21, 22), gate=(60, 900), predictor=(40, 50), dip=(30, 40), dip_lora=(24, 33), wina=(29, 41))
    assert list(found.verdict) == [
        "The GLU oracle is better than every method without LoRA at 0.5 (21.00 beside 29.00, at densities 0.833 and "
        "0.5, wina) and 0.4 (22.00 beside 40.00, at densities 0.8 and 0.4, dip).",
        "dip is better than gate at 0.5 (30.00 beside 60.00) and 0.4 (40.00 beside 900.0).",
        "dip is better than predictor at 0.5 (30.00 beside 40.00) and 0.4 (40.00 beside 50.00).",
        "LoRA recovers, of the perplexity that dip lost, 60.0 % at 0.5 (24.00 beside 30.00) and 35.0 % at 0.4 (33.00 "
        "beside 40.00).",
        "wina is better than dip at 0.5 (29.00 beside 30.00).",
        "wina is worse than dip at 0.4 (41.00 beside 40.00).",
        "Overhead, in shares of the dense MLPs' bytes, counted here but by no density: predictor 15.0 %.",
    ]


def test_another_order_than_the_papers_is_said_to_be_one() -> None:
    found = made_up(oracle=(31, 32), gate=(25, 900), dip=(30, 40))
    assert list(found.verdict)[1:] == [
        "The GLU oracle is not the best at 0.5 (31.00 beside 25.00, at densities 0.833 and 0.5, gate); the paper "
        "(models of 4 to 14 B parameters) has it the other way.",
        "dip is better than gate at 0.4 (40.00 beside 900.0).",
        "dip is not better than gate at 0.5 (30.00 beside 25.00); the paper (models of 4 to 14 B parameters) has it "
        "the other way.",
    ]


def test_the_papers_dip_is_the_one_with_shared_out_densities() -> None:
    found = made_up(gate=(25, 45), dip=(30, 50), **{"dip, split": (24, 40)})
    assert list(found.verdict) == [
        "dip, split is better than gate at 0.5 (24.00 beside 25.00) and 0.4 (40.00 beside 45.00).",
        "dip, split is better than dip at 0.5 (24.00 beside 30.00) and 0.4 (40.00 beside 50.00).",
    ]


def test_the_best_row_competes() -> None:
    found = made_up(oracle=(21, 22), dip=(30, 40), gate=(29, 50), dip_lora=(24, 33))
    assert [found.best(d).label for d in (0.5, 0.4)] == ["gate", "dip"]  # type: ignore[union-attr]
    gate = found.rows[2].figures
    assert gate is not None
    for cheat in (replace(gate, density=0.55), replace(gate, resident_bytes=2e7)):
        other = replace(found, rows=(*found.rows[:2], replace(found.rows[2], figures=cheat)))
        assert other.best(0.5) is found.rows[1]


def test_the_markdown(request: pytest.FixtureRequest) -> None:
    found = made_up(oracle=(21, 22), predictor=(40, 50), dip=(30, 400), dip_lora=(24, 33))
    dip = replace(found.rows[2], tasks={"mmlu": Accuracy("acc", 0.4321, None, 100, 5)})
    text = replace(found, rows=(*found.rows[:2], dip, *found.rows[3:])).to_markdown()
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_plot_names_every_method() -> None:
    pytest.importorskip("matplotlib")
    found = made_up(oracle=(21, 22), dip=(30, 40), dip_lora=(24, 33), gate=(60, 9000), wina=(29, 39))
    plot = perplexity_plot(found)
    drawn = plot["svg"].decode()
    for text in (
        "glu (oracle)",
        "dip + LoRA",
        "wina",
        "dense, 20.00",
        "above the axis: gate 9,000 at 0.4",
        "made up on",
    ):
        assert text in drawn
    assert plot["png"].startswith(b"\x89PNG")
    assert perplexity_plot(found) == plot


def test_a_plot_of_nothing_but_dense() -> None:
    pytest.importorskip("matplotlib")
    assert perplexity_plot(made_up(dip=(float("inf"), float("nan"))))["png"].startswith(b"\x89PNG")
