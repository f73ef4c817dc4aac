"""The dense model beside which all runs are measured: its logits are computed once.

Shape legend: T tokens of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dipc.backends._session import Session, Step

if TYPE_CHECKING:
    from dipc.ir.program import Program

CACHED_BYTES = 2 << 30


class CachedDenseSession:
    """A session that is fed a whole window per call, and keeps what came of it as long as there is room.

    Args:
        session: what runs.
        most_bytes: of logits to keep.
    """

    def __init__(self, session: Session, most_bytes: int = CACHED_BYTES) -> None:
        self.session, self.identity, self.position = session, session.identity, 0
        self._room = most_bytes
        self._kept: dict[tuple[int, ...], Tensor] = {}

    @property
    def program(self) -> Program | None:
        """The program behind the session, where there is one."""
        return getattr(self.session, "program", None)

    def reset(self) -> None:
        """Each call is a sequence of its own already."""

    def new_sequence(self) -> None:
        """Each call is a sequence of its own already."""

    def state(self, name: str) -> Tensor:
        """Return the present value of a carried input."""
        return self.session.state(name)

    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        """Return the logits [T, V] of a window of tokens [T]."""
        window = tuple(torch.as_tensor(ids).tolist())
        logits_TV = self._kept.get(window)
        if logits_TV is None:
            self.session.new_sequence()
            logits_TV = self.session.step(ids, dense=dense).logits
            if logits_TV.nbytes <= self._room:
                self._room -= logits_TV.nbytes
                self._kept[window] = logits_TV
        return Step(logits_TV, {})
