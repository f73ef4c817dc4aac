"""Selection, cache-aware or plain, on numpy arrays.

Shapes: T tokens, U units of one selection site. README.md beside this file states the cache's rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipc.native.call import check, opened, pointer, typed
from dipc.native.loader import library


class State(NamedTuple):
    """A site's cache between two tokens.

    Attributes:
        cached: bool[U], which units are in the cache.
        freq: int64[U], how often each unit was used.
        last_used: int64[U], the time of each unit's last use, -1 before the first.
        t: int64[] or int64[1], the time of the next token.
    """

    cached: NDArray[np.bool_]
    freq: NDArray[np.int64]
    last_used: NDArray[np.int64]
    t: NDArray[np.int64]

    @classmethod
    def empty(cls, units: int) -> State:
        """Return that of an empty cache."""
        cached, freq = np.zeros(units, np.bool_), np.zeros(units, np.int64)
        return cls(cached, freq, np.full(units, -1, np.int64), np.zeros((), np.int64))


def covers_scores(dtype: str, device: str) -> bool:
    """Return whether the selections can stand in for their torch references, where the policy has a kernel.

    Args:
        dtype: the scores' torch dtype, as text ("torch.float32").
        device: the scores' device type ("cpu").
    """
    return dtype == "torch.float32" and device == "cpu" and library() is not None


def select_cache_aware(
    score: NDArray[np.float32],
    state: State,
    *,
    k: int,
    capacity: int,
    gamma: float,
    policy: int,
    dense: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], State]:
    """Choose k units per token, preferring cached ones, and give the cache state after them (Eq. 10, Algorithm 1).

    Args:
        score: float32[T,U], magnitudes (>= 0).
        state: the cache before the first token.
        k: units per token, 0 <= k <= U.
        capacity: cache size in units, clamped to [0, U].
        gamma: the factor on scores of units outside the cache.
        policy: the policy's number in the C interface.
        dense: bool[T]; where true the token's mask is full and the state stays as it is.

    Returns:
        The masks, bool[T,U], and the state after them. The arguments are left alone.

    Raises:
        ValueError: a shape or dtype is not as stated, k is out of range, the policy has no kernel here, or a count or
            time does not stay below 2**31.
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
    after = State(
        typed("cached", state.cached, np.bool_, units).copy(),
        typed("freq", state.freq, np.int64, units).copy(),
        typed("last_used", state.last_used, np.int64, units).copy(),
        typed("t", state.t, np.int64, *(1,) * state.t.ndim).copy(),
    )
    mask = np.empty((tokens, units), np.bool_)
    arguments = [pointer(score), pointer(dense), *map(pointer, after), tokens, units, k]
    arguments += [_clamp(capacity, units), gamma, policy, pointer(mask)]
    check(opened().dipc_select_cache_aware(*arguments))
    return mask, after


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


def _clamp(capacity: int, units: int) -> int:
    return min(max(capacity, 0), units)
