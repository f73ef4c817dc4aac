"""Belady's oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dipc.cache.next_use import NEVER
from dipc.cache.policy import Policy


@dataclass(frozen=True)
class Belady(Policy):
    """Keep the units that are touched again soonest, which only a recorded trace can tell: no policy hits more.

    Belady, IBM Systems Journal 5(2), 1966; units that would be evicted at once are read past the cache.
    """

    protects_current_token: ClassVar[bool] = False
    online: ClassVar[bool] = False
    native_number = 6

    def key(self, freq: Any, last_used: Any) -> Any:
        return NEVER - last_used
