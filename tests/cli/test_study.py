"""`dipc study` and `dipc plan`: their tables at several widths, their JSON, and what they refuse in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dipc.report.study_file import read_study
from dipc.studies.study.executor import StudyExecutor
from dipc.studies.study.measure import StudyRun
from kit.command_line import Cli
from kit.paths import CONFIGS

SMALL = ("--methods", "dip,dip-ca", "--density", "0.9,0.5", "--gamma", "0.2", "--step", "0.2", "--context", "0", "-q")


def test_the_tables_fit(cli: Cli, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--policy", "lfu,belady", "--dram", "80%,90%", "--flash", "1 GB/s,2 GB/s", "--max-ppl-increase", "50%")
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        result = cli("study", model, *SMALL, *asked, "--text", text, "-o", tmp_path / "out")
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= width and "…" not in result.out
        for part in ("fastest within +", "of DRAM, flash 2 GB/s", "what the figures show", "simulated", "wrote study"):
            assert part in result.out
    found = read_study(tmp_path / "out")
    assert len(found.targets) == 2 * 2 * 3


def test_json_is_what_the_folder_keeps(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    found = cli("study", model, *SMALL, "--dram", "90%", "--text", text, "-o", tmp_path / "out", "--json").json()
    assert found["kind"] == "study" and found["simulated"] is True
    assert found == json.loads((tmp_path / "out" / "study.json").read_text("utf-8"))
    dense, *others = found["points"]
    assert (dense["method"], dense["speedup"], dense["kl"]) == ("dense", 1.0, 0.0)
    assert {p["method"] for p in others} == {"dip", "dip-ca"} and all(p["tokens_per_second"] > 0 for p in others)
    assert [layer["layer"] for layer in dense["layers"]] == [0, 1]
    for point in found["points"]:
        read = sum(layer["flash_bytes_per_token"] for layer in point["layers"])
        assert read == pytest.approx(point["flash_bytes_per_token"])


@pytest.mark.nightly
def test_the_dense_rows_of_the_paper(cli: Cli) -> None:
    # Tables 2 and 6: Phi-3-Medium in 4 bits on 2, 4 and 6 GB. Table 7: with 4 GB, flash of 0.5, 1 and 2 GB/s.
    model = CONFIGS / "phi-3-medium.json"
    arguments = ("--methods", "dense", "--bits-per-weight", "4.25", "--context", "0", "--json", "-q")
    asked = ("--dram", "2 GB,4 GB,6 GB", "--flash", "0.5 GB/s,1 GB/s,2 GB/s")
    found = cli("study", model, *arguments, *asked).json()
    speeds = {(p["dram_bytes"], p["flash_bytes_per_s"]): p["tokens_per_second"] for p in found["points"]}
    for dram, expected in ((2, 0.19), (4, 0.29), (6, 0.71)):
        assert speeds[dram * 10**9, 1e9] == pytest.approx(expected, abs=0.006)
    for flash, expected in ((0.5, 0.15), (1, 0.29), (2, 0.59)):
        assert speeds[4 * 10**9, flash * 1e9] == pytest.approx(expected, abs=0.006)


def test_a_failure_is_shown_and_told_by_the_exit_code(
    cli: Cli, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = StudyExecutor._measure

    def fails(self: StudyExecutor, run: StudyRun, watch: object) -> object:
        if run.label == "dip 0.5":
            raise ZeroDivisionError("on purpose")
        return measure(self, run, watch)  # type: ignore[arg-type]

    monkeypatch.setattr(StudyExecutor, "_measure", fails)
    result = cli("study", model, *SMALL, "--dram", "90%", "--text", text)
    result.fails(1, "study: 1 of 5 points failed (dip-0.5-", "on purpose", "a rerun tries again")
    assert "incomplete" in result.out and "dip-ca" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--density", ""), 2, ("density: the list is empty",)),
        (("--density", "0.5,2"), 2, ("density: 2 is outside (0, 1]",)),
        (("--gamma", "small"), 2, ("--gamma 'small' is no list of numbers",)),
        (("--methods", ""), 2, ("methods: the list is empty",)),
        (("--policy", "belady", "--methods", "dip-ca"), 2, ("belady cannot steer dip-ca",)),
        (("--dram", "1 B"), 2, ("too little",)),
        (("--dram", "lots"), 2, ('"lots" is not a size',)),
        (("--hw", "a81"), 2, ("no device named 'a81'",)),
        (("--layout", "random"), 2, ("layout=random",)),
        (("--cluster", "slurm"), 2, ("no cluster named 'slurm'",)),
        (("--cluster", "ray"), 6, ('pip install "dipc[cluster]"',)),
        (("--max-ppl-increase", "-1"), 2, ('"-1" is no increase',)),
    ],
)
def test_bad_input(
    cli: Cli,
    model: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    parts: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    cli("study", model, "--text", text, *SMALL, *arguments).fails(code, *parts)


def test_an_interrupted_study_goes_on(
    cli: Cli, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, made = StudyExecutor._measure, list[str]()

    def stops(self: StudyExecutor, run: StudyRun, watch: object) -> object:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(run.label)
        return measure(self, run, watch)  # type: ignore[arg-type]

    arguments = ("study", model, *SMALL, "--dram", "90%", "--text", text, "-o", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(StudyExecutor, "_measure", stops)
        cli(*arguments).fails(130, "interrupted")
    assert not (tmp_path / "out" / "study.json").exists()
    finished = list(made)
    made[:] = ["more than two"] * 3
    with monkeypatch.context() as patch:
        patch.setattr(StudyExecutor, "_measure", stops)
        assert cli(*arguments).code == 0
    assert sorted(finished + made[3:]) == [
        "dense",
        "dip 0.5",
        "dip 0.9",
        "dip-ca 0.5 gamma 0.2",
        "dip-ca 0.9 gamma 0.2",
    ]
