"""Least frequently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dipc.cache.policy import Policy


@dataclass(frozen=True)
class Lfu(Policy):
    """Evict the unit that the fewest tokens touched; of equals, the one touched longest ago.

    Counts survive eviction: a unit that returns goes on from its old count. Good for 2**25 tokens.
    """

    def key(self, freq: Any, last_used: Any) -> Any:
        return freq * 2**25 + last_used + 1
