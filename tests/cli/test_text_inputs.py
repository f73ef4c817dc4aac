"""Whoever saved a text or a prompt, the command line reads the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.byte_text import WORDS
from kit.command_line import Cli

LINES = WORDS.replace(" and", "\nand") * 4


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    """The same text as two editors save it."""
    files = [tmp_path / "plain.txt", tmp_path / "other.txt"]
    files[0].write_bytes(LINES.encode())
    files[1].write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    return files


def test_evaluation(cli: Cli, out: Path, saved: list[Path]) -> None:
    plain, other = (cli("eval", out, "--text", file, "--json", "--quiet").json() for file in saved)
    assert plain["text"].pop("name") == "plain.txt" and other["text"].pop("name") == "other.txt"
    assert plain == other


def test_calibration(cli: Cli, model: Path, saved: list[Path], tmp_path: Path) -> None:
    made = []
    for i, file in enumerate(saved):
        options = ("--parts", "thresholds", "--text", file, "-o", tmp_path / str(i), "--json", "--quiet")
        made.append(cli("calibrate", model, *options).json())
    assert len({(one["text_digest"], one["tokens"]) for one in made}) == 1


def test_prompts(cli: Cli, out: Path) -> None:
    found = [
        cli("run", out, "--prompt", prompt, "--max-new-tokens", "3", "--json", "--quiet").json()
        for prompt in ("The city\ncouncil", "\ufeffThe city\r\ncouncil")
    ]
    assert found[0]["text"] == found[1]["text"] and found[0]["prompt"] == found[1]["prompt"]
    cli("run", out, "--prompt", "The c\udce9").fails(2, "the prompt: character 5 is no character but half")


def test_other_encodings(cli: Cli, out: Path, tmp_path: Path) -> None:
    file = tmp_path / "wide.txt"
    file.write_bytes(LINES.encode("utf-16"))
    cli("eval", out, "--text", file).fails(2, "wide.txt: not UTF-8 text but UTF-16; save it as UTF-8")
