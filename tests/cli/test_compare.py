"""`dipc compare`: its table at several widths, its JSON, its exit codes, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipc.errors import MissingDependency
from dipc.pipeline.pass_ import PASSES
from dipc.report import study_folder
from kit.command_line import Cli

BROKEN = '''
from dataclasses import dataclass
from dipc.pipeline.sparsity_pass import SparsityPass

@dataclass(frozen=True)
class Broken(SparsityPass):
    """Fails."""

    def rewrite(self, glu):
        raise ZeroDivisionError("on purpose")
'''


@pytest.fixture(autouse=True)
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plot, which takes longer than all the rest."""

    def absent(found: object) -> None:
        raise MissingDependency("no matplotlib")

    monkeypatch.setattr(study_folder, "perplexity_plot", absent)


def test_the_table_fits(cli: Cli, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("compare", model, "--methods", "dip,glu,cats", "--density", "0.5,0.4", "--text", text)
    for width in (80, 100, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        result = cli(*arguments, "-o", tmp_path / "out")
        assert (result.code, result.err) == (0, "")
        lines = result.out.splitlines()
        assert max(map(len, lines)) <= width and "…" not in result.out
        dip = [line.split() for line in lines if line.startswith("dip ")]
        assert [(row[1], len(row)) for row in dip] == [("0.5", 9), ("0.403", 9)]
        assert all(row[2].endswith("*") for row in dip)
        for part in ("density 0.4", "glu (oracle)", "incomplete", "needs a calibration", "what the figures show"):
            assert part in result.out
        assert "wrote table.md" in result.out
    assert (tmp_path / "out" / "table.md").read_text("utf-8").startswith("# Methods on tiny")


def test_json(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = cli("compare", model, "--methods", "dip", "--density", "0.5", "--text", text, "-o", out, "--json").json()
    assert found["kind"] == "comparison" and found["protocol"]["text"] == text.name
    (row,) = found["rows"]
    assert row["best"] and row["pipeline"] == "dip{density=0.5}" and row["figures"]["density"] == 0.5
    assert json.loads((out / "table.json").read_text("utf-8")) == found


def test_pipelines_of_ones_own(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    own = (
        "--method",
        "dip-ca{density=DENSITY gamma=0.5}",
        "--method",
        "int8,dip{density=DENSITY}",
        "--method",
        "int8{}",
    )
    result = cli("compare", model, *own, "--density", "0.5", "--text", text, "-o", tmp_path / "out", "--json")
    assert [row["label"] for row in result.json()["rows"]] == ["dip-ca{gamma=0.5}", "int8,dip", "int8"]


def test_a_failure_is_shown_and_told_by_the_exit_code(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    arguments = ("--plugin", plugin, "--methods", "broken,dip", "--density", "0.5", "--text", text)
    try:
        result = cli("compare", model, *arguments, "-o", tmp_path / "out")
    finally:
        PASSES.added.pop("broken", None)
    result.fails(1, "compare: 1 of 2 rows failed (broken 0.5: ZeroDivisionError: on purpose)", "a rerun tries again")
    assert "dip" in result.out and "on purpose" in result.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--methods", "dipp"), ("no method named 'dipp'", "did you mean 'dip'")),
        (("--density", "0.5,2"), ("density: 2 is outside (0, 1]",)),
        (("--density", "half"), ("'half' is no list of numbers",)),
        (("--density", ""), ("lists nothing",)),
        (("--method", "dip{density=DENSITY"), ("cannot read",)),
        (("--seq-len", "1000"), ("seq_len is 1000",)),
        (("--text", "absent.txt"), ("absent.txt",)),
    ],
)
def test_bad_input(
    cli: Cli, model: Path, text: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    cli("compare", model, "--methods", "dip", "--text", text, *arguments, "-o", tmp_path / "out").fails(2, *parts)
    assert not (tmp_path / "out").exists()


def test_a_config_alone_cannot_be_compared(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    result = cli("compare", model / "config.json", "--text", text, "-o", tmp_path / "out")
    result.fails(2, "was captured from a config alone")


def test_another_text_needs_another_folder(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    arguments = ("compare", model, "--methods", "dip", "--density", "0.5", "-o", tmp_path / "out", "--json")
    cli(*arguments, "--text", text).json()
    other = tmp_path / "other.txt"
    other.write_text("Another text, of which there is enough to predict.")
    cli(*arguments, "--text", other).fails(2, "holds a comparison with text words.txt, and this one has other.txt")
