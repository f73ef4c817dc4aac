"""The identity of what runs, as results name it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dipc.ir.program import Method, Program


@dataclass(frozen=True)
class Identity:
    """The model that runs, as every result names it, and what text needs.

    `backend` is `eager`, `onnx-bodies` (ONNX Runtime by itself) or `onnx-kernels` (with dipc's library registered).
    """

    name: str
    digest: str
    context: int
    method: Method
    backend: str
    tokenizer: Any = field(default=None, compare=False)
    vocab: int = field(default=0, compare=False)
    """Of the model; 0 where it is not known."""
    eos_ids: tuple[int, ...] = field(default=(), compare=False)
    """Tokens that end a text, as the model's own files say."""

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text: the model's, and its tokenizer's where that has another."""
        own = getattr(self.tokenizer, "eos_token_id", None)
        return self.eos_ids if own is None or own in self.eos_ids else (*self.eos_ids, int(own))

    @property
    def usual_context(self) -> int:
        """Tokens of a window unless told otherwise: the model's context, at most 2,048."""
        return min(self.context, 2048)

    @classmethod
    def of(cls, program: Program, backend: str) -> Identity:
        """A program's."""
        info = program.info
        about = (info.name, info.digest, info.context, program.method, backend)
        return cls(*about, program.tokenizer, info.vocab, info.eos_ids)
