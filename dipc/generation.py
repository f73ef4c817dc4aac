"""Writing text with a program: prefill once, then a token at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dipc.backends.eager import EagerSession
from dipc.errors import UsageError
from dipc.program import Method, Program


@dataclass(frozen=True)
class Generation:
    """What was written, how it was made, and how long it took on this machine."""

    text: str
    prompt: str
    prompt_tokens: int
    new_tokens: int
    prefill_s: float
    decode_s: float
    method: Method
    temperature: float
    seed: int

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens per second on this machine, the first one (prefill's) left out."""
        return (self.new_tokens - 1) / self.decode_s if self.new_tokens > 1 else 0.0


def generate(
    program: Program,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        program: with weights and a tokenizer. With `scope=decode` the prompt is dense and only what follows is sparse.
        prompt: text; it must leave room in the model's context.
        max_new_tokens: stop after so many; the model's end token and the end of its context stop earlier.
        temperature: 0 takes the likeliest token; above 0 samples.
        seed: of the sampling.
        on_text: called with each new piece of text.

    Raises:
        UsageError: no weights, no tokenizer, an empty prompt or one that fills the context.
    """
    tokenizer = tokenizer_of(program)
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if temperature < 0:
        raise UsageError(f"temperature is {temperature:g}; it must be 0 (the likeliest token) or above")
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    context = program.info.context
    if not ids:
        raise UsageError("the prompt is empty; give some text")
    if len(ids) >= context:
        raise UsageError(f"the prompt is {len(ids)} tokens, and the model's context is {context}; shorten the prompt")
    session, new = EagerSession(program), []
    generator = torch.Generator().manual_seed(seed)
    shown, start = "", time.perf_counter()
    logits = session.step(ids, dense=True).logits[-1]
    prefill = time.perf_counter() - start
    while True:
        token = _choose(logits, temperature, generator)
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
        text = tokenizer.decode(new)
        if on_text is not None and not text.endswith("\ufffd"):
            on_text(text[len(shown) :])
            shown = text
        if len(new) == max_new_tokens or session.position == context:
            break
        logits = session.step([token]).logits[-1]
    decode = time.perf_counter() - start - prefill
    text = tokenizer.decode(new)
    if on_text is not None and len(text) > len(shown):
        on_text(text[len(shown) :])
    return Generation(text, prompt, len(ids), len(new), prefill, decode, program.method, temperature, seed)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))


def tokenizer_of(program: Program) -> Any:
    """The program's tokenizer. UsageError if it came without one."""
    if program.tokenizer is None:
        raise UsageError(
            f"{program.info.name} came without a tokenizer; it can be inspected and estimated, not run on text"
        )
    return program.tokenizer
