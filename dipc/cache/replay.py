"""Replay of recorded masks through a cold cache: bit for bit what `state.update` gives, much faster.

The native library does it where it is built and knows the policy; numpy does it everywhere and for every policy.

Shapes: T tokens, U units of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    return Replay(mask_TU.shape[1], capacity, policy).hits(mask_TU)


@dataclass(frozen=True, eq=False)
class SiteReplay:
    """What a cache made of a trace of one site.

    Attributes:
        hits_T: int64 [T], touched units that were cached before the token.
        missed_TB: uint8 [T, B], the touched units that were not, packed as in a trace; None where nobody asked.
    """

    hits_T: Ints
    missed_TB: npt.NDArray[np.uint8] | None


def replay_site(
    packed_TB: npt.NDArray[np.uint8],
    units: int,
    cases: Sequence[tuple[Policy, int]],
    *,
    popularity: Ints | None = None,
    missed: bool = False,
) -> list[SiteReplay]:
    """Run a site's trace through several initially empty caches.

    Args:
        packed_TB: uint8 [T, B], the touched units as a trace packs them.
        units: U.
        cases: policy and capacity of each cache.
        popularity: int64 [U], for policies that rank by it.
        missed: also give the units that were missed.
    """
    return [_replay_one(packed_TB, units, policy, capacity, missed) for policy, capacity in cases]


def _replay_one(
    packed_TB: npt.NDArray[np.uint8], units: int, policy: Policy, capacity: int, missed: bool
) -> SiteReplay:
    mask_TU = np.unpackbits(packed_TB, axis=1, count=units).view(np.bool_)
    if not missed:
        return SiteReplay(replay(mask_TU, capacity, policy), None)
    cache = Replay(units, capacity, policy)
    missed_TU = np.zeros_like(mask_TU)
    hits_T = np.zeros(len(mask_TU), dtype=np.int64)
    for token, mask in enumerate(mask_TU):
        missed_TU[token] = mask & ~cache.cached
        hits_T[token] = cache.hits(mask[None])[0]
    return SiteReplay(hits_T, np.packbits(missed_TU, axis=1))


class Replay:
    """A weight cache, empty at first, through which masks run piece by piece: all at once would be the same.

    Args:
        units: U.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.
    """

    def __init__(self, units: int, capacity: int, policy: Policy) -> None:
        self.capacity, self.policy = clamp_capacity(policy, capacity, units), policy
        self._state = native.empty_state(units)

    @property
    def cached(self) -> Bools:
        """bool [U]: what is cached now."""
        return self._state[0]

    def hits(self, mask_TU: Bools) -> Ints:
        """Hits of each token [T] of further masks bool [T, U]."""
        if self.capacity == 0:
            return np.zeros(len(mask_TU), dtype=np.int64)
        if self.capacity == mask_TU.shape[1]:
            return self._without_eviction(mask_TU)
        if self.policy.name in native.POLICIES and native.library() is not None:
            return native.cache_replay(mask_TU, self.capacity, self.policy.name, self._state)
        return np.fromiter(map(self._with_eviction, mask_TU), np.int64, len(mask_TU))

    def _without_eviction(self, mask_TU: Bools) -> Ints:
        cached, *_ = self._state
        touched_TU = np.logical_or.accumulate(np.concatenate([cached[None], mask_TU]), axis=0)
        cached[:] = touched_TU[-1]
        hits_T: Ints = np.count_nonzero(mask_TU & touched_TU[:-1], axis=1)
        return hits_T

    def _with_eviction(self, mask: Bools) -> int:
        cached, freq, last_used, t = self._state
        kept = mask & cached
        hits = int(np.count_nonzero(kept))
        freq += mask
        last_used[mask] = t
        t += 1
        # Tiers fill the space in turn, and all but one fit whole or not at all: keys matter in that one only.
        room = self.capacity - hits
        new = np.flatnonzero(mask > cached)
        if len(new) >= room:
            after = kept
            after[_best(new, room, freq, last_used, self.policy)] = True
        else:
            old, room = np.flatnonzero(cached > mask), room - len(new)
            after = mask.copy()
            after[_best(old, min(room, len(old)), freq, last_used, self.policy)] = True
        cached[:] = after
        return hits


def full_hits(units: int, capacity: int, policy: Policy) -> int:
    """Hits per token of a site that every token reads in full, once its cache is warm: min(C, U).

    The same units stay for ever, so this is what `replay` gives for every token after the first.
    """
    return clamp_capacity(policy, capacity, units)


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
