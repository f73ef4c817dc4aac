"""The weight cache of one site and its update after a token, in numpy: what `state.update` gives, much faster.

Shapes: U units of the site.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dipc.cache.policy import Policy, clamp_capacity
from dipc.errors import UsageError
from dipc.native import State

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

POPULARITY_BITS = 25
"""A popularity lies in [0, 2**POPULARITY_BITS)."""


def first_state(units: int, capacity: int, policy: Policy, popularity: Ints | None = None) -> State:
    """Return a cache before the first token: empty, or the most popular units where the policy does not count.

    Args:
        units: U.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.
        popularity: int64 [U] in [0, 2**25); others than such policies leave it alone.

    Raises:
        UsageError: such a policy lacks the popularity, or it is of another shape or range.
    """
    state = State.empty(units)
    if policy.counts:
        return state
    cached, freq, last_used, _ = state
    freq[:] = _checked(popularity, units, policy)
    cached[_best(np.arange(units), clamp_capacity(policy, capacity, units), policy, freq, last_used)] = True
    return state


def advance(state: State, mask: Bools, capacity: int, policy: Policy, next_use: npt.NDArray[Any] | None = None) -> int:
    """Update a cache in place after a token that touched `mask`, and give the token's hits.

    Args:
        state: as `first_state` gives it.
        mask: bool [U].
        capacity: units that fit, in [0, U].
        policy: who stays.
        next_use: int [U], the next token that touches each unit, for a policy that is not online.
    """
    cached, freq, last_used, t = state
    kept = mask & cached
    hits = int(np.count_nonzero(kept))
    if policy.counts:
        freq += mask
    last_used[mask] = t
    t += 1
    # Tiers fill the space in turn, and all but one fit whole or not at all: keys matter in that one only.
    tiers = (kept, mask > cached, cached > mask) if policy.protects_current_token else (mask | cached,)
    after, room = np.zeros_like(cached), capacity
    for tier in tiers:
        units = np.flatnonzero(tier)
        after[_best(units, room, policy, freq, last_used if next_use is None else next_use)] = True
        room = max(0, room - len(units))
    cached[:] = after
    if policy.drops_count_on_evict:
        freq[~cached] = 0
    return hits


def _best(units: Ints, room: int, policy: Policy, freq: Ints, used: npt.NDArray[Any]) -> Ints:
    """Return `room` of units in ascending order: those with the greatest keys, of equals the lower index."""
    if room == 0 or room >= len(units):
        return units[:room]
    key = policy.key(freq[units], used[units])
    last_in = len(key) - room
    threshold = np.partition(key, last_in)[last_in]
    above = key > threshold
    tied = np.flatnonzero(key == threshold)
    above[tied[: room - np.count_nonzero(above)]] = True
    best: Ints = units[above]
    return best


def _checked(popularity: Ints | None, units: int, policy: Policy) -> Ints:
    if popularity is None:
        raise UsageError(f"the policy {policy.name} needs the popularity of each unit; give one from a calibration")
    if popularity.shape != (units,) or popularity.dtype != np.int64:
        raise UsageError(f"popularity is {popularity.dtype} {list(popularity.shape)}; int64 [{units}] was expected")
    if units and not 0 <= int(popularity.min()) <= int(popularity.max()) < 2**POPULARITY_BITS:
        raise UsageError(f"popularity lies outside [0, 2**{POPULARITY_BITS}); scale it")
    return popularity
