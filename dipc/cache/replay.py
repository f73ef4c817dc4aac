"""Replay of recorded masks through a cold cache: bit for bit what `state.update` gives, much faster.

The native library does it where it is built and knows the policy; numpy does it everywhere and for every policy.

Shapes: T tokens, U units of the site.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dipc import native
from dipc.cache.policy import Policy, clamp_capacity

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def replay(mask_TU: Bools, capacity: int, policy: Policy) -> Ints:
    """Hits of each token when the masks run through an initially empty cache.

    Args:
        mask_TU: bool [T, U], units that each token touches.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.

    Returns:
        int64 [T], touched units that were cached before the token.
    """
    units = mask_TU.shape[1]
    capacity = clamp_capacity(policy, capacity, units)
    if capacity == 0:
        return np.zeros(len(mask_TU), dtype=np.int64)
    if capacity == units:
        return _replay_without_eviction(mask_TU)
    if policy.name in native.POLICIES and native.library() is not None:
        return native.cache_replay(mask_TU, capacity, policy.name)
    return _replay_with_eviction(mask_TU, capacity, policy)


def full_hits(units: int, capacity: int, policy: Policy) -> int:
    """Hits per token of a site that every token reads in full, once its cache is warm: min(C, U).

    The same units stay for ever, so this is what `replay` gives for every token after the first.
    """
    return clamp_capacity(policy, capacity, units)


def _replay_without_eviction(mask_TU: Bools) -> Ints:
    touched_TU = np.logical_or.accumulate(mask_TU, axis=0)
    hits_T = np.zeros(len(mask_TU), dtype=np.int64)
    hits_T[1:] = np.count_nonzero(mask_TU[1:] & touched_TU[:-1], axis=1)
    return hits_T


def _replay_with_eviction(mask_TU: Bools, capacity: int, policy: Policy) -> Ints:
    tokens, units = mask_TU.shape
    hits_T = np.zeros(tokens, dtype=np.int64)
    cached = np.zeros(units, dtype=np.bool_)
    freq = np.zeros(units, dtype=np.int64)
    last_used = np.full(units, -1, dtype=np.int64)
    for t, mask in enumerate(mask_TU):
        kept = mask & cached
        hits_T[t] = hits = np.count_nonzero(kept)
        freq += mask
        last_used[mask] = t
        # Tiers fill the space in turn, and all but one fit whole or not at all: keys matter in that one only.
        room = capacity - int(hits)
        new = np.flatnonzero(mask > cached)
        if len(new) >= room:
            cached = kept
            cached[_best(new, room, freq, last_used, policy)] = True
            continue
        old = np.flatnonzero(cached > mask)
        room -= len(new)
        if len(old) <= room:
            cached |= mask
        else:
            cached = mask.copy()
            cached[_best(old, room, freq, last_used, policy)] = True
    return hits_T


def _best(candidates: Ints, count: int, freq: Ints, last_used: Ints, policy: Policy) -> Ints:
    """The `count` of the candidates (ascending indices) with the greatest key, the lower index first on ties."""
    if count == 0 or count == len(candidates):
        return candidates[:count]
    key: Ints = policy.key(freq[candidates], last_used[candidates])
    last_in = len(key) - count
    threshold = np.partition(key, last_in)[last_in]
    above = key > threshold
    tied = np.flatnonzero(key == threshold)
    above[tied[: count - np.count_nonzero(above)]] = True
    best: Ints = candidates[above]
    return best
