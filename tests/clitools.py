"""A small model on disk, its compiled folder, and a way to run the command line, for the tests of the commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dipc.cli import main

WORDS = "The city council met on Tuesday and voted for a new bridge over the river. "
CONTEXT = 64


@dataclass
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout of a command that succeeded quietly."""
        assert (self.code, self.err) == (0, "")
        document: dict[str, Any] = json.loads(self.out)
        assert document["schema"] == 1
        return document

    def fails(self, code: int, *parts: str) -> None:
        """The command ended with this code and one line on stderr that has these parts."""
        assert self.code == code, self.err
        assert self.err.startswith("dipc: ")
        assert self.err.count("\n") == 1
        for part in parts:
            assert part in self.err


class Cli:
    """Runs `dipc` in this process, in a terminal of 80 columns that is a pipe."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *arguments: object) -> Result:
        """`dipc` with these arguments."""
        self.capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = self.capfd.readouterr()
        return Result(code, out, err)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "80")
    return Cli(capfd)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=CONTEXT)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    made: Any = tiny_model(vocab_size=257, max_position_embeddings=CONTEXT, eos_token_id=0, bos_token_id=None)
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "out"
    assert main(["compile", str(model), "--passes", "dip-ca{gamma=0.2}", "-o", str(folder), "--json"]) == 0
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 4, encoding="utf-8")
    return file
