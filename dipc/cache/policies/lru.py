"""Least recently used."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache.policy import KeyWeights, Policy


@dataclass(frozen=True)
class Lru(Policy):
    """Evict the unit that was not touched for the longest time."""

    native_number = 1
    key_weights = KeyWeights(freq=0, last_used=1)
