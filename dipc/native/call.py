"""The steps of every wrapper of a native function: check arrays, pass them on, and turn a status into an error."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipc.errors import MissingDependency
from dipc.native.loader import describe, library

_OUT_OF_MEMORY = 2


def opened() -> ctypes.CDLL:
    """The native library. Raises MissingDependency where it is absent."""
    found = library()
    if found is None:
        raise MissingDependency(f"the native library is {describe()}")
    return found


def typed(name: str, array: NDArray[Any], dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    """The array as it is. Raises ValueError where it has another dtype or shape."""
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}{list(shape)}")
    return array


def pointer(array: NDArray[Any] | None) -> int | None:
    """Where the array's memory starts; None for none."""
    return None if array is None else array.ctypes.data


def check(status: int) -> None:
    """Raise ValueError or MemoryError where a function did not succeed."""
    if status == _OUT_OF_MEMORY:
        raise MemoryError("the native library ran out of memory")
    if status:
        raise ValueError(f"the native library refused its arguments (status {status})")
