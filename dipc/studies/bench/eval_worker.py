"""What the processes of `dipc bench eval` do: measure the perplexity of one program, again and again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipc.studies.bench.case import Case, Cases
from dipc.studies.bench.decode_worker import DENSE

if TYPE_CHECKING:
    from dipc.ir.program import Program
    from dipc.text import Text

CASE = "perplexity"


class Numbers:
    """A tokenizer of texts such as "3 17 4", for models that have none."""

    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """The ids."""
        return {"input_ids": [int(word) for word in text.split() if word.isdecimal()]}

    def decode(self, ids: list[int]) -> str:
        """The text."""
        return "".join(f"{i} " for i in ids)


def perplexity_of(
    *, model: str, passes: str, seq_len: int | None, max_tokens: int, seed: int, threads: int, plugins: list[str]
) -> Cases:
    """The perplexity of a model on the sample text; of a config.json, with random weights, on random tokens."""
    from dipc import native
    from dipc.api import compile, perplexity
    from dipc.backends.eager import EagerSession
    from dipc.registry import load_installed_plugins, load_plugin

    load_installed_plugins()
    for file in plugins:
        load_plugin(Path(file))
    if native.library() is not None:
        native.set_threads(threads)
    program, text = _opened(model, max_tokens, seed)
    session = EagerSession(compile(program, "outline-glu" if passes == DENSE else passes).program)

    def call(number: int) -> Any:
        score = perplexity(session, text, seq_len=seq_len, max_tokens=max_tokens)
        return np.array([score.perplexity, score.tokens, score.seq_len])

    return {CASE: Case(call)}


def _opened(model: str, max_tokens: int, seed: int) -> tuple[Program, Text | None]:
    from dipc.api import Text, capture
    from dipc.frontend.hugging_face import find_model
    from dipc.studies.bench.random_model import random_model

    where = find_model(model)
    if not (isinstance(where, Path) and where.is_file()):
        return capture(model), None
    program = capture(random_model(where, seed), name=where.resolve().parent.name)
    drawn = np.random.default_rng(seed).integers(program.info.vocab, size=max_tokens)
    return dataclasses.replace(program, tokenizer=Numbers()), Text("random tokens", " ".join(map(str, drawn)))
