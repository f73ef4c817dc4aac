"""Selection, cache-aware or plain, on numpy arrays.

Shapes: T tokens, U units of one selection site. README.md beside this file states the cache's rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dipc.native.call import check, opened, pointer, typed
from dipc.native.loader import library

POLICIES: Mapping[str, int] = MappingProxyType(
    {"none": 0, "lru": 1, "lfu": 2, "lfu-in-cache": 3, "lfu-admission": 4, "static": 5}
)
"""The eviction policies that have a kernel, and their numbers in the C interface."""

Scan = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Masks bool[T,U], then the state after them: cached bool[U], freq int64[U], last_used int64[U], t int64."""

State = tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""The state alone."""


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
        ValueError: a shape or dtype is not as stated, k is out of range, the policy has no kernel, or a count or time
            does not stay below 2**31.
        MissingDependency: the native library is absent.
    """
    if score.ndim != 2:
        raise ValueError(f"score has shape {score.shape}; expected [T,U]")
    tokens, units = score.shape
    if not 0 <= k <= units:
        raise ValueError(f"k is {k}; expected 0 <= k <= {units} units")
    score = np.ascontiguousarray(typed("score", score, np.float32, tokens, units))
    if dense is not None:
        dense = np.ascontiguousarray(typed("dense", dense, np.bool_, tokens))
    state = (
        typed("cached", cached, np.bool_, units).copy(),
        typed("freq", freq, np.int64, units).copy(),
        typed("last_used", last_used, np.int64, units).copy(),
        typed("t", t, np.int64, *(1,) * t.ndim).copy(),
    )
    mask = np.empty((tokens, units), np.bool_)
    arguments = [pointer(score), pointer(dense), *map(pointer, state), tokens, units, k]
    arguments += [_clamp(capacity, units), gamma, policy_number(policy), pointer(mask)]
    check(opened().dipc_select_cache_aware(*arguments))
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
    score = np.ascontiguousarray(typed("score", score, np.float32, tokens, units))
    if dense is not None:
        dense = np.ascontiguousarray(typed("dense", dense, np.bool_, tokens))
    mask = np.empty((tokens, units), np.bool_)
    check(opened().dipc_select_topk(pointer(score), pointer(dense), tokens, units, k, pointer(mask)))
    return mask


def empty_state(units: int) -> State:
    """That of an empty cache."""
    zeros = np.zeros(units, np.bool_), np.zeros(units, np.int64)
    return *zeros, np.full(units, -1, np.int64), np.zeros((), np.int64)


def policy_number(policy: str) -> int:
    """The policy's number in the C interface. Raises ValueError where it has no kernel."""
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} has no native kernel (those that have: {', '.join(POLICIES)})")
    return POLICIES[policy]


def _clamp(capacity: int, units: int) -> int:
    return min(max(capacity, 0), units)
