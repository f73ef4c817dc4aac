"""The weight cache of one site and its update after a token, in torch: the reference every kernel must equal.

Shapes: U units of the site. Source: "The weight cache" in this folder's README.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dipc.cache.policy import KEY_BITS, Policy, clamp_capacity


@dataclass(frozen=True, eq=False)
class CacheState:
    """What a site's cache holds and remembers between two tokens."""

    cached: Tensor
    """bool [U]: the unit is in DRAM."""
    freq: Tensor
    """int64 [U]: tokens that touched the unit, evicted or not."""
    last_used: Tensor
    """int64 [U]: the last token that touched it; -1 for never."""
    t: Tensor
    """int64 []: tokens seen so far."""

    @classmethod
    def empty(cls, units: int) -> CacheState:
        """A cold cache of a site with `units` units."""
        return cls(
            cached=torch.zeros(units, dtype=torch.bool),
            freq=torch.zeros(units, dtype=torch.int64),
            last_used=torch.full((units,), -1, dtype=torch.int64),
            t=torch.zeros((), dtype=torch.int64),
        )


def update(state: CacheState, mask: Tensor, capacity: int, policy: Policy) -> CacheState:
    """The state after a token that touched `mask`; `state` itself is not modified.

    Hits of the token are `mask & state.cached`, before the update.

    Args:
        state: the cache before the token.
        mask: bool [U], the units that the token reads.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.
    """
    freq = state.freq + mask
    last_used = torch.where(mask, state.t, state.last_used)
    tier = 2 * mask.long() + state.cached.long()
    key = tier * 2**KEY_BITS + policy.key(freq, last_used)
    # torch.topk promises no order on ties; a stable sort keeps the lower index first.
    room = clamp_capacity(policy, capacity, mask.numel())
    best = torch.sort(key, descending=True, stable=True).indices.narrow(0, 0, room)
    cached = torch.zeros_like(state.cached).scatter(0, best, tier.gather(0, best) > 0)
    return CacheState(cached, freq, last_used, state.t + 1)
