"""Write text with a program: prefill once, then a token at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dipc.backends import RunOptions, get_backend
from dipc.backends._session import Session
from dipc.errors import UsageError
from dipc.evaluation.finite import check_logits
from dipc.evaluation.sampling import SamplingOptions
from dipc.ir.identity import Identity
from dipc.ir.program import Method, Program
from dipc.text import token_ids


@dataclass(frozen=True)
class Generation:
    """The text that was written, how it was made, and how long it took on this machine."""

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
    sampling: SamplingOptions = SamplingOptions(),
    runner: RunOptions = RunOptions(),
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        model: a program with weights and a tokenizer, or a session, which is reset first. With `scope=decode` the
            prompt is dense and only what follows is sparse.
        prompt: text; it must leave room in the model's context.
        sampling: how tokens are chosen, and how many.
        runner: what runs a program. A session is what it is.
        on_text: called with each new piece of text.

    Raises:
        UsageError: no weights, no tokenizer, an empty prompt or one that fills the context.
        BadFile: the tokenizer makes a token that the model does not have.
        NotFinite: the model computes NaN or infinity.
    """
    writer = _Writer(sampling, torch.Generator().manual_seed(sampling.seed), on_text)
    if not isinstance(model, Program):
        model.reset()
        return writer.write(model, prompt, _prompt_ids(model.identity, prompt))
    backend = get_backend(runner.backend, "run")
    ids = _prompt_ids(Identity.of(model, runner.backend), prompt)
    program = backend.prepare(model, runner, new_tokens=sampling.max_new_tokens)
    with backend.open(program, runner) as session:
        return writer.write(session, prompt, ids)


def _prompt_ids(model: Identity, prompt: str) -> list[int]:
    ids = token_ids(model, prompt, "the prompt")
    if not ids:
        raise UsageError("the prompt is empty; give some text")
    if len(ids) >= model.context:
        raise UsageError(
            f"the prompt is {len(ids)} tokens, and the model's context is {model.context}; shorten the prompt"
        )
    return ids


@dataclass(frozen=True)
class _Writer:
    sampling: SamplingOptions
    generator: torch.Generator
    on_text: Callable[[str], None] | None

    def write(self, session: Session, prompt: str, ids: list[int]) -> Generation:
        """Feed the prompt, then a token at a time."""
        model = session.identity
        new: list[int] = []
        shown, start = "", time.perf_counter()
        logits = session.step(ids, dense=True).logits[-1]
        prefill = time.perf_counter() - start
        while True:
            check_logits(session, [*ids, *new], logits[None])
            token = _choose(logits, self.sampling.temperature, self.generator)
            if token in model.end_tokens:
                break
            new.append(token)
            text = model.tokenizer.decode(new)
            if self.on_text is not None and not text.endswith("\ufffd"):
                self.on_text(text[len(shown) :])
                shown = text
            if len(new) == self.sampling.max_new_tokens or session.position == model.context:
                break
            logits = session.step([token]).logits[-1]
        decode = time.perf_counter() - start - prefill
        text = model.tokenizer.decode(new)
        if self.on_text is not None and len(text) > len(shown):
            self.on_text(text[len(shown) :])
        temperature, seed = self.sampling.temperature, self.sampling.seed
        return Generation(
            model.name,
            text,
            prompt,
            len(ids),
            len(new),
            prefill,
            decode,
            model.method,
            temperature,
            seed,
            model.backend,
        )


def _choose(logits_V: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    """The likeliest token, or one that is drawn. A temperature so low that logits overflow leaves the likeliest."""
    scaled_V = logits_V.cpu() / temperature if temperature else logits_V
    if temperature == 0 or not bool(scaled_V.max().isfinite()):
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(scaled_V, -1), 1, generator=generator))
