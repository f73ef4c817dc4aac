"""`dipc calibrate`: what it writes and prints, and what it refuses before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dipc import api
from dipc.calibration.file import Calibration
from dipc.cli import main
from kit.byte_text import WORDS
from kit.command_line import Cli

QUICK = ("--parts", "thresholds,sensitivity,predictors", "--hidden", "8", "--epochs", "1")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 5, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a compiled folder, which opens sooner."""
    made = tmp_path_factory.mktemp("calibrate") / "tiny"
    assert main(["compile", str(model), "-p", "outline-glu", "-o", str(made), "--json"]) == 0
    return made


@pytest.fixture
def made(cli: Cli, folder: Path, words: Path) -> Path:
    file = words.with_name("made.safetensors")
    assert cli("calibrate", folder, "--text", words, "-o", file, *QUICK).code == 0
    return file


def test_the_table(cli: Cli, model: Path, words: Path) -> None:
    file = words.with_name("a.safetensors")
    done = cli("calibrate", model, "--text", words, "-o", file, *QUICK)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("wrote ")) <= 80 and "…" not in done.out
    found = Calibration.load(file)
    assert lines[0] == "calibration" and lines[-1].startswith(f"wrote {file} (")
    for part in (f"tiny (digest {found.meta['digest']})", "320 in windows of 64", "seconds", "hidden width"):
        assert part in done.out
    row = next(line.split() for line in lines if line.startswith("layers.1"))
    assert float(row[1]) == pytest.approx(found.threshold("layers.1", "input", 0.5), rel=0.01)
    assert float(row[8]) == pytest.approx(found.threshold("layers.1", "glu", 0.01), rel=0.01)
    assert "320 tokens are few for predictors: give --text FILE with 50,000 or more" in done.out


def test_json_and_inspect_say_the_same(cli: Cli, folder: Path, words: Path) -> None:
    file = words.with_name("a.safetensors")
    said = cli("calibrate", folder, "--text", words, "-o", file, *QUICK, "--json").json()
    found = Calibration.load(file)
    assert (said["out"], said["out_bytes"]) == (str(file), file.stat().st_size) and said["seconds"] > 0
    assert said["parts"] == ["thresholds", "sensitivity", "predictors"] and said["tokens"] == 320
    assert said["mlps"]["layers.0"]["up"]["threshold_at_density_0.5"] == found.threshold("layers.0", "up", 0.5)
    assert said["mlps"]["layers.0"]["predictor"]["hidden"] == 8
    assert cli("inspect", file, "--json").json() == {
        k: v for k, v in said.items() if k not in ("out", "out_bytes", "seconds")
    }
    shown = cli("inspect", file)
    assert shown.code == 0 and "layers.1" in shown.out
    assert api.to_dict(found)["mlps"] == said["mlps"]
    cli("inspect", file, "--graph").fails(2, "is no program")


def test_all_parts_by_default(cli: Cli, folder: Path, words: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.safetensors"
    said = cli("calibrate", folder, "--text", words, "-o", file, "--hidden", 4, "--epochs", 1, "--json").json()
    assert said["parts"] == ["thresholds", "sensitivity", "predictors", "allocation"]
    assert [s["density"] for s in said["allocation"]["split"]] == [0.6, 0.5, 0.4]
    assert "density allocation" in cli("inspect", file).out


def test_what_is_there_is_not_overwritten(cli: Cli, folder: Path, made: Path, words: Path) -> None:
    before = made.read_bytes()
    # The text is absent too: the file is what is looked at first.
    cli("calibrate", folder, "--text", words.with_name("absent"), "-o", made).fails(2, "exists; choose another file")
    assert made.read_bytes() == before
    cli("calibrate", folder, "-o", made.with_name("absent") / "a").fails(2, "there is no folder", "create it first")


def test_bad_input_is_one_line(cli: Cli, model: Path, folder: Path, words: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"

    def refused(*arguments: object) -> Any:
        return cli("calibrate", *arguments, "-o", out)

    refused(folder, "--text", tmp_path / "absent").fails(2, "absent: cannot be read")
    refused(folder, "--parts", "predictor").fails(2, "no part of a calibration named 'predictor'; did you mean")
    refused(folder, "--text", words, "--seq-len", 65).fails(2, "seq_len is 65", "context of 64")
    refused("nowhere").fails(2, "no model 'nowhere'")
    refused(folder, "--device", "tpu").fails(2, "no device 'tpu'")
    short = tmp_path / "short.txt"
    short.write_text(WORDS[:30], encoding="utf-8")
    refused(folder, "--text", short).fails(2, "short.txt: its 30 tokens are less than a window of 64")
    refused(folder, "--text", words, "--max-tokens", 64, "--parts", "predictors").fails(2, "one window cannot")
    refused(model / "config.json", "--text", words).fails(2, "it has no weights to calibrate")
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_interrupted_it_leaves_nothing(
    cli: Cli, folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    for place in ("dipc.tuning.magnitudes.MagnitudeStudy.see", "os.replace"):
        with monkeypatch.context() as patched:
            patched.setattr(place, interrupted)
            done = cli("calibrate", folder, "--text", words, "-o", tmp_path / "new", "--parts", "thresholds")
        done.fails(130, "interrupted")
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_finished_is_kept_until_all_is(
    cli: Cli, folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    asked = ("calibrate", folder, "--text", words, "-o", tmp_path / "new", "--parts", "thresholds,allocation")
    few = ("--max-tokens", 256, "--allocation-tokens", 64)
    with monkeypatch.context() as patched:
        patched.setattr("dipc.tuning.measure.search", interrupted)
        cli(*asked, *few).fails(130, "interrupted")
    kept = tmp_path / "new.unfinished"
    assert [file.name for file in kept.iterdir()] == ["thresholds.safetensors"]
    cli(*asked, "--max-tokens", 128).fails(2, "new.unfinished: a calibration with tokens 256 and not 128 is unfinished")
    with monkeypatch.context() as patched:
        patched.setattr("dipc.tuning.magnitudes.MagnitudeStudy.see", interrupted)
        cli(*asked, *few, "--restart").fails(130, "interrupted")
        assert not kept.exists()
    assert cli(*asked, *few).code == 0
    assert not kept.exists() and Calibration.load(tmp_path / "new").parts == ("thresholds", "allocation")
