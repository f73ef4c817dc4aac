"""The calls that are timed: what a candidate's setup hands to its worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Answer = NDArray[np.number] | None
"""The result of a call, for comparison with others', or nothing."""


@dataclass(frozen=True)
class Case:
    """One call that is timed, again and again."""

    call: Callable[[int], Answer]
    """Does the work and returns its answer; given a running number, so that calls can take different inputs."""
    repeats: int = 1
    """The number of times that one call does what is measured; its time is divided by it."""
    bytes_read: float = 0.0
    """Bytes of weights that one of them has to read from memory."""
    kept: object = None
    """Something that has to live as long as the case, such as the context of a session."""


Cases = Mapping[str, Case]
"""A candidate's cases by name; a setup function returns them."""
