"""Writing text with a program: prefill once, then a token at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dipc.backends._session import Session
from dipc.errors import UsageError
from dipc.evaluation.decoding import for_decoding
from dipc.evaluation.sessions import Backend, Kernels, open_session
from dipc.ir.identity import Identity
from dipc.ir.placement import device_of, place
from dipc.ir.program import Method, Program
from dipc.text import tokenizer_of


@dataclass(frozen=True)
class Generation:
    """What was written, how it was made, and how long it took on this machine."""

    model: str
    text: str
    prompt: str
    prompt_tokens: int
    new_tokens: int
    prefill_s: float
    decode_s: float
    method: Method
    temperature: float
    seed: int
    backend: str

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens per second on this machine, the first one (prefill's) left out."""
        return (self.new_tokens - 1) / self.decode_s if self.new_tokens > 1 else 0.0


def generate(
    model: Program | Session,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    backend: Backend = "eager",
    kernels: Kernels = "auto",
    exported: Path | None = None,
    device: str | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        model: a program with weights and a tokenizer, or a session, which is reset first. With `scope=decode` the
            prompt is dense and only what follows is sparse.
        prompt: text; it must leave room in the model's context.
        max_new_tokens: stop after so many; the model's end token and the end of its context stop earlier.
        temperature: 0 takes the likeliest token; above 0 samples.
        seed: of the sampling.
        backend: what runs a program: `eager` or `onnx`. A session is what it is.
        kernels: dipc's kernels where they can be had ("auto"), with `onnx` demanded (True), or left out (False). With
            `eager` the program is packed for them where that pays (`dipc.evaluation.decoding`).
        exported: with `onnx`: the program's own export; by default it is made anew and thrown away.
        device: with `eager`, what torch runs on (`dipc.ir.placement`): `auto`, `cpu`, `cuda` or `cuda:1`; by default what
            holds the weights.
        on_text: called with each new piece of text.

    Raises:
        UsageError: no weights, no tokenizer, an empty prompt or one that fills the context.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if temperature < 0:
        raise UsageError(f"temperature is {temperature:g}; it must be 0 (the likeliest token) or above")
    writer = _Writer(max_new_tokens, temperature, torch.Generator().manual_seed(seed), on_text)
    if not isinstance(model, Program):
        model.reset()
        return writer.write(model, prompt, _prompt_ids(model.identity, prompt), seed)
    ids = _prompt_ids(Identity.of(model, backend), prompt)
    if device is not None:
        model = place(model, device)
    if backend == "eager" and kernels is not False and device_of(model).type == "cpu":
        model = for_decoding(model, max_new_tokens)
    with open_session(model, backend, kernels=kernels, exported=exported) as session:
        return writer.write(session, prompt, ids, seed)


def _prompt_ids(model: Identity, prompt: str) -> list[int]:
    ids: list[int] = tokenizer_of(model)(prompt, verbose=False)["input_ids"]
    if not ids:
        raise UsageError("the prompt is empty; give some text")
    if len(ids) >= model.context:
        raise UsageError(
            f"the prompt is {len(ids)} tokens, and the model's context is {model.context}; shorten the prompt"
        )
    return ids


@dataclass(frozen=True)
class _Writer:
    max_new_tokens: int
    temperature: float
    generator: torch.Generator
    on_text: Callable[[str], None] | None

    def write(self, session: Session, prompt: str, ids: list[int], seed: int) -> Generation:
        """Feed the prompt, then a token at a time."""
        model, new = session.identity, []
        shown, start = "", time.perf_counter()
        logits = session.step(ids, dense=True).logits[-1]
        prefill = time.perf_counter() - start
        while True:
            token = _choose(logits, self.temperature, self.generator)
            if token == model.tokenizer.eos_token_id:
                break
            new.append(token)
            text = model.tokenizer.decode(new)
            if self.on_text is not None and not text.endswith("\ufffd"):
                self.on_text(text[len(shown) :])
                shown = text
            if len(new) == self.max_new_tokens or session.position == model.context:
                break
            logits = session.step([token]).logits[-1]
        decode = time.perf_counter() - start - prefill
        text = model.tokenizer.decode(new)
        if self.on_text is not None and len(text) > len(shown):
            self.on_text(text[len(shown) :])
        count, temperature = len(new), self.temperature
        return Generation(
            model.name, text, prompt, len(ids), count, prefill, decode, model.method, temperature, seed, model.backend
        )


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits.cpu() / temperature, -1), 1, generator=generator))
