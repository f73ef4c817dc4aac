"""Perplexity: one program, run by a backend, reads the same text again and again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipc.backends import RunOptions, get_backend
from dipc.evaluation.perplexity import perplexity
from dipc.frontend.hugging_face import capture, find_model
from dipc.ir.program import Program
from dipc.options import TextSpec
from dipc.pipeline.runner import run_pipeline
from dipc.studies.bench.candidates.case import Case, Cases
from dipc.studies.bench.candidates.pipelines import eval_pipeline
from dipc.studies.bench.candidates.plugins import load_plugins
from dipc.studies.bench.candidates.random_model import random_model
from dipc.text import Text

CASE = "perplexity"


class NumberTokenizer:
    """A tokenizer of texts such as "3 17 4", for models that have none."""

    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        """Return the ids of a text."""
        return {"input_ids": [int(word) for word in text.split() if word.isdecimal()]}

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        return "".join(f"{i} " for i in ids)

    def save_pretrained(self, folder: str) -> None:
        """Write nothing: there is nothing to know."""


def measure_perplexity(
    *,
    model: str,
    passes: str,
    seq_len: int | None,
    max_tokens: int,
    seed: int,
    plugins: Sequence[str],
    runner: RunOptions,
) -> Cases:
    """Set up a model on the sample text; of a config.json, with random weights, on random tokens."""
    load_plugins(plugins)
    runs = get_backend(runner.backend, "run")
    program, text = _open(model, max_tokens, seed)
    windows = TextSpec(seq_len, max_tokens)
    compiled, context = run_pipeline(program, eval_pipeline(passes)).program, ExitStack()
    session = context.enter_context(runs.open(runs.prepare(compiled, runner), runner))

    def call(number: int) -> NDArray[np.float64]:
        score = perplexity(session, text, windows=windows)
        return np.array([score.perplexity, score.tokens, score.seq_len])

    return {CASE: Case(call, kept=context)}


def _open(model: str, max_tokens: int, seed: int) -> tuple[Program, Text | None]:
    """Return the program, and its text where it is not the sample."""
    where = find_model(model)
    if not (isinstance(where, Path) and where.is_file() and where.suffix != ".gguf"):
        return capture(model), None
    program = capture(random_model(where, seed), name=where.resolve().parent.name)
    drawn = np.random.default_rng(seed).integers(program.info.vocab, size=max_tokens)
    return dataclasses.replace(program, tokenizer=NumberTokenizer()), Text("random tokens", " ".join(map(str, drawn)))
