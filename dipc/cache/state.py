"""The weight cache of one site and its update after a token, in torch: the reference every kernel must equal.

Shapes: U units of the site. Source: "The weight cache" in this folder's README.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from dipc.cache.policy import KEY_BITS, Policy, check_online, clamp_capacity


@dataclass(frozen=True, eq=False)
class CacheState:
    """A site's cache between two tokens: what it holds and what it remembers."""

    cached: Tensor
    """bool [U]: the unit is in DRAM."""
    freq: Tensor
    """int64 [U]: tokens that touched the unit, or its popularity where the policy does not count."""
    last_used: Tensor
    """int64 [U]: the last token that touched it; -1 for never."""
    t: Tensor
    """int64 []: tokens seen so far."""

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`cached`, `freq`, `last_used` and `t`."""
        return self.cached, self.freq, self.last_used, self.t

    @classmethod
    def empty(cls, units: int) -> CacheState:
        """A cold cache of a site with `units` units."""
        return cls(
            cached=torch.zeros(units, dtype=torch.bool),
            freq=torch.zeros(units, dtype=torch.int64),
            last_used=torch.full((units,), -1, dtype=torch.int64),
            t=torch.zeros((), dtype=torch.int64),
        )


STATE = tuple(field.name for field in dataclasses.fields(CacheState))
"""The names of a cache's state, in the order in which operators take it."""


def update(state: CacheState, mask: Tensor, capacity: int, policy: Policy) -> CacheState:
    """The state after a token that touched `mask`; `state` itself is not modified.

    Hits of the token are `mask & state.cached`, before the update.

    Args:
        state: the cache before the token.
        mask: bool [U], the units that the token reads.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.

    Raises:
        UsageError: the policy is not online.
    """
    check_online(policy)
    freq = state.freq + mask if policy.counts else state.freq
    last_used = torch.where(mask, state.t, state.last_used)
    candidate = mask | state.cached
    tier = 2 * mask.long() + state.cached.long() if policy.protects_current_token else candidate.long()
    best = _best(tier * 2**KEY_BITS + policy.key(freq, last_used), capacity, policy)
    cached = torch.zeros_like(state.cached).scatter(0, best, candidate.gather(0, best))
    if policy.drops_count_on_evict:
        freq = torch.where(cached, freq, 0)
    return CacheState(cached, freq, last_used, state.t + 1)


def preload(state: CacheState, capacity: int, policy: Policy) -> CacheState:
    """The state in which the first token finds the cache: the most popular units cached, where a policy does not count.

    Any other state, and any other policy's, is given back as it is.
    """
    if policy.counts:
        return state
    best = _best(policy.key(state.freq, state.last_used), capacity, policy)
    hot = torch.zeros_like(state.cached).scatter(0, best, True)
    return dataclasses.replace(state, cached=torch.where(state.t == 0, hot, state.cached))


def _best(key: Tensor, capacity: int, policy: Policy) -> Tensor:
    """Indices of the units with the greatest keys, as many as fit, the lower index first among equals."""
    # torch.topk promises no order on ties; a stable sort keeps the lower index first.
    room = clamp_capacity(policy, capacity, key.numel())
    return torch.sort(key, descending=True, stable=True).indices.narrow(0, 0, room)
