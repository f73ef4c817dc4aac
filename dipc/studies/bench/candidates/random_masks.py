"""Made-up masks of a site, a fixed number of units each.

Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import numpy as np

from dipc.memory.trace import Packed

LASTING = 0.5
"""The share of a unit's deviation from its popularity that lasts to the next token."""


def make_masks(units: int, active: int, tokens: int, seed: int) -> Packed:
    """Return masks uint8 [T, B] with `active` units each: units have a popularity, and noise of which half lasts."""
    random = np.random.default_rng(seed)
    popularity, noise = random.standard_normal((2, units), np.float32)
    packed_TB = np.empty((tokens, -(-units // 8)), np.uint8)
    for token in range(tokens):
        noise = LASTING * noise + np.sqrt(1 - LASTING**2) * random.standard_normal(units, np.float32)
        mask = np.zeros(units, np.bool_)
        mask[np.argpartition(popularity + noise, units - active)[units - active :]] = True
        packed_TB[token] = np.packbits(mask)
    return packed_TB
