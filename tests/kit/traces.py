"""Traces that are drawn, for tests of what they cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dipc.memory.trace import Trace


def uniform_trace(units: Mapping[str, int], active: Mapping[str, int], tokens: int, seed: int) -> Trace:
    """Each token touches `active` units of a site, any such set being as likely as another."""
    generator = np.random.default_rng(seed)
    ranks = {site: generator.random((tokens, size)).argsort(axis=1).argsort(axis=1) for site, size in units.items()}
    return Trace.from_masks({site: rank < active[site] for site, rank in ranks.items()}, {})
