"""Least recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dipc.cache.policy import Policy


@dataclass(frozen=True)
class Lru(Policy):
    """Evict the unit that was not touched for the longest time."""

    def key(self, freq: Any, last_used: Any) -> Any:
        return last_used + 1
