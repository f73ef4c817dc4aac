"""Least frequently used, counted only while cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.cache.policies.lfu import Lfu


@dataclass(frozen=True)
class LfuInCache(Lfu):
    """Evict the unit that the fewest tokens touched since it came in; of equals, the one touched longest ago.

    A unit that is evicted loses its count, so what was popular long ago does not come back at once.
    """

    drops_count_on_evict: ClassVar[bool] = True
    native_number = 3
