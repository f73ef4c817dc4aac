"""Least frequently used."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache.policy import KeyWeights, Policy


@dataclass(frozen=True)
class Lfu(Policy):
    """Evict the unit that the fewest tokens touched; of equals, the one touched longest ago.

    Counts survive eviction: a unit that returns goes on from its old count. Good for 2**25 tokens.
    """

    native_number = 2
    key_weights = KeyWeights(freq=2**25, last_used=1)
