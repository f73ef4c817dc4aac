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

    @property
    def usual_context(self) -> int:
        """Tokens of a window unless told otherwise: the model's context, at most 2,048."""
        return min(self.context, 2048)

    @classmethod
    def of(cls, program: Program, backend: str) -> Identity:
        """A program's."""
        info = program.info
        return cls(info.name, info.digest, info.context, program.method, backend, program.tokenizer, info.vocab)
