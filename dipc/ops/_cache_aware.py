"""The constants of one cache-aware selection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheAwareOptions:
    """The constants of a cache-aware selection, the same for all its tokens.

    Attributes:
        k: units per token.
        capacity: units that the site's cache holds.
        gamma: the factor on scores of units that are not cached.
        policy: the eviction policy, by its registry name.
        site: the place of selection in traces and reports; it changes nothing.
        claim: the site's claim to its layer's cache for each of its bytes, beside the layer's other sites, where a
            device decides capacities; it changes nothing here.
    """

    k: int
    capacity: int
    gamma: float
    policy: str = "lfu"
    site: str = ""
    claim: float = 1.0
