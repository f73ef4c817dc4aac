"""Belady's oracle for a cache that every touched unit enters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.cache.policies.belady import Belady


@dataclass(frozen=True)
class BeladyDemand(Belady):
    """Evict the unit that is touched again last, where what is touched comes in, as under lru and lfu.

    The oracle of the paper's Figure 11 and of most cache simulators: it knows the future, and reads nothing past the
    cache while there is room.
    """

    protects_current_token: ClassVar[bool] = True
    native_number = 7
