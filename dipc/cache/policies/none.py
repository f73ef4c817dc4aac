"""No cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dipc.cache.policy import Policy


@dataclass(frozen=True)
class NoCache(Policy):
    """Keep nothing: every unit is read from flash each time."""

    def key(self, freq: Any, last_used: Any) -> Any:
        return 0 * last_used

    def capacity(self, requested: int) -> int:
        return 0
