"""Bad input: one clear line on stderr, the exit code of the design, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dipc.cli import main
from dipc.errors import VerificationFailed
from kit.byte_text import CONTEXT
from kit.command_line import Cli


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["compil"], ["compil", "compile"]),
        (["passes", "lst"], ["'list'"]),
        (["compile", "demo", "--pases", "dip"], ["did you mean --passes"]),
        (["compile", "demo"], ["--passes"]),
        (["compile", "demo", "-p", "dip"], ["-o OUT"]),
        (["run", "demo", "--prompt", "x", "--seed", "z"], ["--seed"]),
        (["eval", "demo", "--seq-len", "1"], ["--seq-len"]),
        (["hw", "list", "surplus"], ["surplus"]),
        (["compile", "nothing", "-p", "dip", "-o", "new"], ["'nothing'"]),
        (["compile", "nothing", "-p", "dip", "--dry-run"], ["'nothing'"]),
        (["compile", "demo", "-p", "dip-cb", "-o", "new"], ["did you mean 'dip-ca'"]),
        (["compile", "demo", "-p", "dip{densty=1}", "-o", "new"], ["did you mean 'density'"]),
        (["compile", "demo", "-p", "dip{density=0}", "-o", "new"], ["(0, 1]"]),
        (["compile", "demo", "-p", "dip{density=1.5}", "-o", "new"], ["(0, 1]"]),
        (["compile", "demo", "-p", "dip{density=x}", "-o", "new"], ["density=x"]),
        (["compile", "demo", "-p", "dip-ca{policy=lfo}", "-o", "new"], ["did you mean 'lfu'"]),
        (["compile", "demo", "-p", "dip{", "-o", "new"], ["pipeline"]),
        (["compile", "demo", "-p", "dip", "-o", "new", "--dump-after", "dip-ca"], ["did you mean 'dip'"]),
        (["compile", "demo", "-p", "dip", "-o", "no/such/new"], ["no/such"]),
        (["estimate", "demo", "--hw", "a19"], ["did you mean 'a18'"]),
        (["estimate", "demo", "--hw", "none.yaml"], ["none.yaml"]),
        (["hw", "show", "a19"], ["did you mean 'a18'"]),
        (["hw", "validate", "none.yaml"], ["none.yaml"]),
        (["passes", "show", "dop"], ["did you mean 'dip'"]),
        (["passes", "list", "--plugin", "none.py"], ["none.py"]),
        (["inspect", "demo", "--diff"], ["--diff"]),
        (["inspect", "demo", "--diff", "--graph"], ["not both"]),
        (["run", "nothing", "--prompt", "x"], ["'nothing'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage(
    cli: Cli, arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    result.fails(2, *parts)
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []


def test_out_that_exists(cli: Cli, model: Path, out: Path) -> None:
    cli("compile", model, "-p", "dip", "-o", out).fails(2, "exists")


def test_a_layer_that_is_not_there(cli: Cli, model: Path, out: Path, tmp_path: Path) -> None:
    cli("inspect", out, "--layer", "2").fails(2, "layers 0-1")
    cli("compile", model, "-p", "dip{layers=2}", "-o", tmp_path / "new").fails(2, "0-1")
    assert list(tmp_path.iterdir()) == []


def test_prompts(cli: Cli, out: Path) -> None:
    cli("run", out, "--prompt", "x" * CONTEXT).fails(2, f"context is {CONTEXT}")
    cli("run", out, "--prompt", "").fails(2, "prompt is empty")


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "empty"), (b" \n", "empty"), (b"caf\xe9", "not UTF-8"), (None, "cannot be read")]
)
@pytest.mark.parametrize("command", [["eval"], ["estimate", "--hw", "a18"]], ids=["eval", "estimate"])
def test_texts(cli: Cli, out: Path, tmp_path: Path, command: list[str], content: bytes | None, part: str) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    cli(command[0], out, *command[1:], "--text", file).fails(2, "text.txt", part)


def test_a_trace_that_cannot_be_saved_is_said_before_the_work(
    cli: Cli, model: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("dipc.api.evaluate", fail)
    cli("eval", model, "--save-trace", tmp_path / "trace").fails(2, "--save-trace", "tiny selects no units")
    monkeypatch.setattr("dipc.cli.eval.open_running", fail)
    cli("eval", out, "--save-trace", tmp_path).fails(2, "--save-trace", "is a folder")
    cli("eval", out, "--save-trace", tmp_path / "no" / "trace").fails(2, "there is no folder", "/no")
    assert list(tmp_path.iterdir()) == []


def test_a_window_longer_than_the_context(cli: Cli, out: Path, text: Path) -> None:
    cli("eval", out, "--text", text, "--seq-len", CONTEXT + 1).fails(2, str(CONTEXT))


def test_dram_that_cannot_hold_the_resident_part(cli: Cli, out: Path, text: Path) -> None:
    cli("estimate", out, "--hw", "a18", "--text", text, "--dram", "1 kB").fails(2, "too little")
    cli("estimate", out, "--hw", "a18", "--text", text, "--dram", "4").fails(2, "no unit")
    cli("estimate", out, "--hw", "a18", "--text", text, "--dram", "x%").fails(2, "50%")
    cli("estimate", out, "--hw", "a18", "--text", text, "--policy", "lfo").fails(2, "did you mean 'lfu'")


def test_a_device_file_with_an_error(cli: Cli, out: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\n", encoding="utf-8")
    cli("estimate", out, "--hw", file).fails(5, "bad.yaml")


def test_a_trace_that_is_none(cli: Cli, out: Path, tmp_path: Path) -> None:
    cli("estimate", out, "--hw", "a18", "--trace", tmp_path / "none").fails(5, "there is no such trace")


def test_an_artifact_with_a_changed_byte(cli: Cli, out: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "program.json", "graph/00-capture.txt"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(out, copy)
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        (copy / name).write_bytes(content)
        cli("inspect", copy).fails(5, Path(name).name)


def test_an_artifact_from_a_newer_schema(cli: Cli, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "newer"
    shutil.copytree(out, copy)
    manifest = json.loads((copy / "dipc.json").read_text(encoding="utf-8"))
    (copy / "dipc.json").write_text(json.dumps({**manifest, "schema": 99}), encoding="utf-8")
    cli("run", copy, "--prompt", "x").fails(5, "99", "newer")


def test_a_folder_without_a_model(cli: Cli, tmp_path: Path) -> None:
    cli("inspect", tmp_path).fails(5, "config.json")
    cli("compile", tmp_path, "-p", "dip", "--dry-run").fails(5, "config.json")


def test_no_weights(cli: Cli, model: Path, tmp_path: Path) -> None:
    cli("run", model / "config.json", "--prompt", "x").fails(2, "tokenizer")


def test_an_encoder_is_not_supported(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}), encoding="utf-8")
    cli("compile", file, "-p", "dip", "-o", tmp_path / "new").fails(3, "BertForMaskedLM")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_pass_that_finds_nothing(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 64, "n_positions": 64}
    file.write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes}), encoding="utf-8")
    cli("compile", file, "-p", "dip", "-o", tmp_path / "new").fails(3, "nothing to rewrite")
    assert not (tmp_path / "new").exists()


def test_a_verification_that_fails(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **options: object) -> None:
        assert options["check_numerics"] is True
        raise VerificationFailed("dip{density=1} changes the logits")

    monkeypatch.setattr("dipc.api.compile", fail)
    cli("compile", model, "-p", "dip", "-o", tmp_path / "new", "--verify").fails(4, "changes the logits")
    assert list(tmp_path.iterdir()) == []


def test_an_internal_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a slip\nin two lines")

    monkeypatch.setattr("dipc.hardware.find.device_names", fail)
    cli("hw", "list").fails(1, "internal error: ZeroDivisionError: a slip in two lines", "--debug")
    shown = cli("hw", "list", "--debug")
    assert shown.code == 1
    assert "Traceback" in shown.err and shown.err.splitlines()[-1].startswith("dipc: internal error")


def test_what_the_system_says_of_a_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/private/devices")

    monkeypatch.setattr("dipc.hardware.find.device_names", fail)
    cli("hw", "list").fails(5, "/private/devices: Permission denied")


def test_nothing_in_a_message_is_a_command_to_the_terminal(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps({"kind": "study", "schema": "\x1b]0;title\x07\u202e\n2"}))
    result = cli("report", file, "-o", tmp_path / "page.html")
    result.fails(5, "study.json", "\\x1b]0;title\\x07\\u202e")


def test_an_interruption(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dipc.hardware.find.device_names", interrupt)
    cli("hw", "list").fails(130, "interrupted")


def test_a_misspelt_model_gets_a_guess(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "dem0", "--passes", "dip", "--dry-run"]) == 2
    assert "did you mean 'demo'?" in capfd.readouterr().err
