"""`dipc trace`: what it makes, fits and shows, and what it refuses before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipc.memory.synthetic import ActivityModel, default_activity
from dipc.memory.trace import Trace
from kit.command_line import Cli


@pytest.fixture
def fitted(cli: Cli, model: Path, text: Path) -> Path:
    file = text.with_name("activity.json")
    assert cli("trace", "fit", model, "--text", text, "--seq-len", 32, "-o", file).code == 0
    return file


def test_fit_make_and_estimate(cli: Cli, out: Path, fitted: Path, text: Path) -> None:
    activity = ActivityModel.load(fitted)
    made = activity.fitted
    assert (made.model, made.text, made.seq_len, made.tokens % 32) == ("tiny", text.name, 32, 0)
    file = text.with_name("made.trace")
    done = cli("trace", "make", out, "--tokens", 20, "--activity", fitted, "--seed", 3, "-o", file)
    assert (done.code, done.err) == (0, "") and max(map(len, done.out.splitlines())) <= 80
    trace = Trace.load(file)
    assert (trace.tokens, trace.meta["seed"], trace.meta["activity"]) == (20, 3, activity.digest)
    hardware = ("--hw", "a18", "--dram", "75%", "--context", 0)
    told = cli("estimate", out, *hardware, "--activity", fitted, "--json").json()
    assert told["source"] == activity.label and told["score"] is None
    cli("estimate", out, *hardware, "--activity", fitted, "--trace", file).fails(2, "either a trace or a model")


def test_a_trace_shown(cli: Cli, out: Path, tmp_path: Path) -> None:
    file = tmp_path / "made.trace"
    made = cli("trace", "make", out, "-o", file, "--json").json()
    assert made.pop("out") == str(file)
    told = cli("trace", "show", file, "--json").json()
    assert told == made and told["kind"] == "trace" and told["tokens"] == 96
    assert told["meta"]["source"] == default_activity().label and "capacities" in told["meta"]
    site = told["sites"]["layers.1.glu"]
    assert (site["units"], site["density"]) == (48, 0.5) and -1 < site["correlation"]["1"] < 1
    shown = cli("trace", "show", file)
    assert "layers.1.glu" in shown.out and "synthetic" in shown.out and max(map(len, shown.out.splitlines())) <= 80


def test_a_model_of_activity_shown(cli: Cli, fitted: Path) -> None:
    told = cli("trace", "show", fitted, "--json").json()
    assert told["kind"] == "activity" and told["fitted"]["model"] == "tiny" and len(told["glu"]) == 2
    shown = cli("trace", "show", fitted)
    assert "tiny (digest" in shown.out and shown.out.count("glu") == 2
    assert max(map(len, shown.out.splitlines())) <= 80


def test_what_is_refused(cli: Cli, model: Path, out: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for command in (("fit", model), ("make", out)):
        cli("trace", *command, "-o", tmp_path / "there").fails(2, "exists")
        cli("trace", *command, "-o", tmp_path / "no" / "x").fails(2, "there is no folder")
    cli("trace", "make", model, "-o", tmp_path / "x").fails(2, "compile it with a method")
    cli("trace", "make", out, "--activity", tmp_path / "none.json", "-o", tmp_path / "x").fails(5, "cannot be read")
    cli("trace", "fit", model / "config.json", "--text", text, "-o", tmp_path / "x").fails(2, "no weights")
    cli("trace", "show", tmp_path / "none.trace").fails(5, "none.trace")
    cli("trace", "show", text).fails(5, str(text))
    assert not (tmp_path / "x").exists()
