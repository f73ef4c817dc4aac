"""No cache."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache.policy import KeyWeights, Policy


@dataclass(frozen=True)
class NoCache(Policy):
    """Keep nothing: every unit is read from flash each time."""

    native_number = 0
    key_weights = KeyWeights(freq=0, last_used=0)

    def capacity(self, requested: int) -> int:
        return 0
