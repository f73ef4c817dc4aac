"""What a contender's setup hands to its worker: the calls that are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dipc.errors import MissingDependency


@dataclass(frozen=True)
class Case:
    """One call that is timed, again and again."""

    call: Callable[[int], NDArray[Any] | None]
    """Does the work and returns its answer; given a running number, so that calls can take different inputs."""
    repeats: int = 1
    """How many of what is measured one call does; its time is divided by it."""
    bytes_read: float = 0.0
    """Bytes of weights that one of them has to read from memory."""


Cases = Mapping[str, Case]
"""A contender's cases by name; a setup function returns them."""


def require_library() -> CDLL:
    """The native library. MissingDependency where it is absent."""
    from dipc import native

    found = native.library()
    if found is None:
        raise MissingDependency(f"the native library is {native.describe()}")
    return found
