"""Selection, cache-aware or plain, and trace replay on numpy arrays.

Shapes: T tokens, U units of one selection site. README.md beside this file states the cache's rule.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipc.errors import MissingDependency
from dipc.native.loader import describe, library

POLICIES: Mapping[str, int] = MappingProxyType({"none": 0, "lru": 1, "lfu": 2})
"""The eviction policies that have a kernel, and their numbers in the C interface."""

Scan = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Masks bool[T,U], then the state after them: cached bool[U], freq int64[U], last_used int64[U], t int64."""

State = tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""The state alone."""

_OUT_OF_MEMORY = 2


def covers_topk(dtype: str, device: str) -> bool:
    """Whether `select_topk` can stand in for the torch reference; arguments as of `covers_scan`."""
    return dtype == "torch.float32" and device == "cpu" and library() is not None


def covers_scan(dtype: str, device: str, policy: str) -> bool:
    """Whether `select_cache_aware` can stand in for the torch reference.

    Args:
        dtype: the scores' torch dtype, as text ("torch.float32").
        device: the scores' device type ("cpu").
        policy: the eviction policy's registry name.
    """
    return dtype == "torch.float32" and device == "cpu" and policy in POLICIES and library() is not None


def select_cache_aware(
    score: NDArray[np.float32],
    cached: NDArray[np.bool_],
    freq: NDArray[np.int64],
    last_used: NDArray[np.int64],
    t: NDArray[np.int64],
    *,
    k: int,
    capacity: int,
    gamma: float,
    policy: str,
    dense: NDArray[np.bool_] | None = None,
) -> Scan:
    """Choose k units per token, preferring cached ones, and give the cache state after them (Eq. 10, Algorithm 1).

    Args:
        score: float32[T,U], magnitudes (>= 0).
        cached: bool[U], which units are in the cache.
        freq: int64[U], how often each unit was used.
        last_used: int64[U], the time of each unit's last use, -1 before the first.
        t: int64[] or int64[1], the time of the next token.
        k: units per token, 0 <= k <= U.
        capacity: cache size in units, clamped to [0, U].
        gamma: the factor on scores of units outside the cache.
        policy: a name in `POLICIES`.
        dense: bool[T]; where true the token's mask is full and the state stays as it is.

    Returns:
        The masks, bool[T,U], and the next cached, freq, last_used and t. The arguments are left alone.

    Raises:
        ValueError: a shape or dtype is not as stated, k is out of range or the policy has no kernel.
        MissingDependency: the native library is absent.
    """
    if score.ndim != 2:
        raise ValueError(f"score has shape {score.shape}; expected [T,U]")
    tokens, units = score.shape
    if not 0 <= k <= units:
        raise ValueError(f"k is {k}; expected 0 <= k <= {units} units")
    score = np.ascontiguousarray(_typed("score", score, np.float32, tokens, units))
    if dense is not None:
        dense = np.ascontiguousarray(_typed("dense", dense, np.bool_, tokens))
    state = (
        _typed("cached", cached, np.bool_, units).copy(),
        _typed("freq", freq, np.int64, units).copy(),
        _typed("last_used", last_used, np.int64, units).copy(),
        _typed("t", t, np.int64, *(1,) * t.ndim).copy(),
    )
    mask = np.empty((tokens, units), np.bool_)
    arguments = [_pointer(score), _pointer(dense), *map(_pointer, state), tokens, units, k]
    arguments += [_clamp(capacity, units), gamma, _number(policy), _pointer(mask)]
    _check(_library().dipc_select_cache_aware(*arguments))
    return mask, *state


def select_topk(score: NDArray[np.float32], k: int, dense: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Choose the k largest scores of every token, the lower index first among equals.

    Args:
        score: float32[T,U].
        k: units per token, 0 <= k <= U.
        dense: bool[T]; where true the token's mask is full.

    Returns:
        bool[T,U].

    Raises:
        ValueError: a shape or dtype is not as stated, or k is out of range.
        MissingDependency: the native library is absent.
    """
    if score.ndim != 2 or not 0 <= k <= score.shape[1]:
        raise ValueError(f"score has shape {score.shape} and k is {k}; expected [T,U] and 0 <= k <= U")
    tokens, units = score.shape
    score = np.ascontiguousarray(_typed("score", score, np.float32, tokens, units))
    if dense is not None:
        dense = np.ascontiguousarray(_typed("dense", dense, np.bool_, tokens))
    mask = np.empty((tokens, units), np.bool_)
    _check(_library().dipc_select_topk(_pointer(score), _pointer(dense), tokens, units, k, _pointer(mask)))
    return mask


def cache_replay(mask: NDArray[np.bool_], capacity: int, policy: str, state: State | None = None) -> NDArray[np.int64]:
    """Run recorded masks through a cache.

    Args:
        mask: bool[T,U], the units each token used.
        capacity: cache size in units, clamped to [0, U].
        policy: a name in `POLICIES`.
        state: cached bool[U], freq int64[U], last_used int64[U] and t int64[] before the first token, updated in
            place; by default those of an empty cache.

    Returns:
        int64[T], how many of each token's units were in the cache before the token's update.

    Raises:
        ValueError: a shape or dtype is not as stated or the policy has no kernel.
        MissingDependency: the native library is absent.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; expected [T,U]")
    tokens, units = mask.shape
    mask = np.ascontiguousarray(_typed("mask", mask, np.bool_, tokens, units))
    cached, freq, last_used, t = empty_state(units) if state is None else state
    updated = (
        _typed("cached", cached, np.bool_, units),
        _typed("freq", freq, np.int64, units),
        _typed("last_used", last_used, np.int64, units),
        _typed("t", t, np.int64),
    )
    hits = np.empty(tokens, np.int64)
    arguments = [_pointer(mask), *map(_pointer, updated), tokens, units, _clamp(capacity, units), _number(policy)]
    _check(_library().dipc_cache_replay(*arguments, _pointer(hits)))
    return hits


def empty_state(units: int) -> State:
    """That of an empty cache."""
    zeros = np.zeros(units, np.bool_), np.zeros(units, np.int64)
    return *zeros, np.full(units, -1, np.int64), np.zeros((), np.int64)


def _typed(name: str, array: NDArray[Any], dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected {np.dtype(dtype)}{list(shape)}")
    return array


def _pointer(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _clamp(capacity: int, units: int) -> int:
    return min(max(capacity, 0), units)


def _number(policy: str) -> int:
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} has no native kernel (those that have: {', '.join(POLICIES)})")
    return POLICIES[policy]


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise MissingDependency(f"the native library is {describe()}")
    return found


def _check(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError("the native library ran out of memory")
    if status:
        raise ValueError(f"the native library refused its arguments (status {status})")
