"""The dense model beside which all runs are measured: its logits are computed once, and kept in a file.

Shape legend: T tokens of a window, V vocabulary.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
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
        folder: where they are kept, in a file without a name that is gone with the process; by default the system's
            for temporary files.
    """

    def __init__(self, session: Session, most_bytes: int = CACHED_BYTES, folder: Path | None = None) -> None:
        self.session, self.identity, self.position = session, session.identity, 0
        self._kept = _LogitsFile(most_bytes, folder)

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
        logits_TV = self._kept.read(window)
        if logits_TV is None:
            self.session.new_sequence()
            logits_TV = self.session.step(ids, dense=dense).logits
            self.session.new_sequence()  # its KV cache would stay in memory until the next window
            self._kept.keep(window, logits_TV)
        return Step(logits_TV, {})


class _LogitsFile:
    """Logits float32 [T, V] by window, in a file without a name."""

    def __init__(self, most_bytes: int, folder: Path | None) -> None:
        self._room, self._folder = most_bytes, folder
        self._file: IO[bytes] | None = None
        self._places: dict[tuple[int, ...], tuple[int, torch.Size]] = {}

    def read(self, window: tuple[int, ...]) -> Tensor | None:
        """Return the logits of a window, or None where they are not kept."""
        if window not in self._places or self._file is None:
            return None
        place, shape = self._places[window]
        self._file.seek(place)
        return torch.from_numpy(np.fromfile(self._file, np.float32, shape.numel())).reshape(shape)

    def keep(self, window: tuple[int, ...], logits_TV: Tensor) -> None:
        """Keep the logits of a window, if there is room."""
        if logits_TV.nbytes > self._room:
            return
        with contextlib.suppress(OSError):  # a disk that is full costs time, not the result
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            place = self._file.seek(0, 2)
            logits_TV.cpu().numpy().tofile(self._file)
            self._room -= logits_TV.nbytes
            self._places[window] = place, logits_TV.shape
