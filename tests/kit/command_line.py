"""A way to run the command line, and the words and tokenizer of the small model that it is run on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
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


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=CONTEXT)
