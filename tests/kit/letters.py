"""A text and the tiny Llama with a tokenizer that reads it letter by letter."""

from __future__ import annotations

import dataclasses

from dipc.api import Program, Text, compile
from kit.tiny_models import tiny_llama


class Letters:
    """A tokenizer of printable ASCII, one token per byte, for a vocabulary of 96."""

    bos_token_id: int | None = None
    eos_token_id = 95

    def __init__(self, bos_token_id: int | None = None) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        start = [] if self.bos_token_id is None or not add_special_tokens else [self.bos_token_id]
        return {"input_ids": start + [ord(c) - 32 for c in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i + 32) for i in ids)


TEXT = Text("fox", "The quick brown fox jumps over the lazy dog, again and again, until the dog wakes up. " * 2)


def lettered(passes: str, bos: int | None = None) -> Program:
    """The tiny Llama, rewritten, with a tokenizer."""
    return dataclasses.replace(compile(tiny_llama(), passes).program, tokenizer=Letters(bos))
