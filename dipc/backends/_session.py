"""The session of a backend that runs programs: it is fed call after call, and says what it runs.

Shape legend: T tokens of a call, V vocabulary, U units of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from dipc.errors import UsageError
from dipc.ir.identity import Identity


@dataclass(frozen=True)
class Step:
    """The answer to one call: logits [T, V] in float32, and the mask [T, U] of every site if they were asked for."""

    logits: Tensor
    masks: dict[str, Tensor]


class Session(Protocol):
    """A running model with its KV cache and its selection state."""

    @property
    def identity(self) -> Identity:
        """The model that runs."""

    @property
    def position(self) -> int:
        """Tokens seen in this sequence."""

    def reset(self) -> None:
        """Forget everything: KV cache, selection state, weight cache."""

    def new_sequence(self) -> None:
        """Forget the text but keep the weight cache warm, as a device does between two prompts."""

    def state(self, name: str) -> Tensor:
        """The present value of a carried input."""

    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        """Feed tokens [T]; `dense` leaves them dense where the program's scope is `decode`."""


@runtime_checkable
class Rewindable(Protocol):
    """A session that can take back the last tokens of a sequence, so that texts that begin alike share their start."""

    def rewind(self, position: int) -> bool:
        """Forget the tokens from `position` on.

        False, and nothing is forgotten, where more than a KV cache is carried: a weight cache does not say what it was.
        Nor does a sliding window, of tokens before the last call.
        """


def check_call(count: int, position: int, context: int) -> None:
    """UsageError unless `count` tokens can follow `position` others."""
    if count == 0:
        raise UsageError("there is no token to run; give some text")
    if position + count > context:
        raise UsageError(f"{position + count} tokens are more than the model's context of {context}")
