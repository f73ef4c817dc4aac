"""Orders in which a site's units may lie in flash, made from a recording of which were touched.

Shapes: W tokens of the recording, U units of the site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dipc.memory.flash.options import Layout
from dipc.memory.trace import Packed, accesses_by_unit

Ints = npt.NDArray[np.int64]

_NEIGHBOURS = 16
"""Partners of each unit that are considered: the pairs of all units would not fit in memory."""
_TOKENS = 512
"""Tokens of the recording that pairs are counted on, the last ones."""
_BLOCK = 2**24
"""Pair counts that are held at once."""


def order_of(layout: Layout, packed_WB: Packed, units: int) -> Ints | None:
    """The unit at each place of the file, int64 [U]; None for the model's own order.

    Args:
        layout: which order.
        packed_WB: uint8 [W, B], the touched units as a trace packs them.
        units: U.
    """
    if layout == "file":
        return None
    counts_U = accesses_by_unit(packed_WB, units)
    by_popularity: Ints = np.argsort(-counts_U, kind="stable")
    if layout == "popularity":
        return by_popularity
    return _chains(_likely_pairs(packed_WB[-_TOKENS:], units), by_popularity)


def _likely_pairs(packed_WB: Packed, units: int) -> Ints:
    """Pairs of units int64 [N, 2], those that were touched together most often first."""
    touched = np.unpackbits(packed_WB, axis=1, count=units).astype(np.float32)
    partners = min(_NEIGHBOURS, units - 1)
    pairs, together = [], []
    block = max(1, _BLOCK // units)
    for start in range(0, units, block):
        counts = touched[:, start : start + block].T @ touched
        here = np.arange(start, start + len(counts))
        counts[np.arange(len(here)), here] = -1
        best = np.argpartition(-counts, partners - 1, axis=1)[:, :partners] if partners else here[:, None][:, :0]
        pairs.append(np.stack([np.repeat(here, partners), best.reshape(-1)], axis=1))
        together.append(np.take_along_axis(counts, best, axis=1).reshape(-1))
    count = np.concatenate(together)
    found: Ints = np.concatenate(pairs)[np.argsort(-count, kind="stable")]
    return found[: np.count_nonzero(count > 0)]


def _chains(pairs: Ints, by_popularity: Ints) -> Ints:
    """Units in chains: pair by pair become neighbours, unless one has two already or both are in one chain.

    After the greedy search for a path through co-activated neurons of Ripple (Wang et al. 2024, arXiv 2410.19274); the
    chains then follow each other by their most popular unit.
    """
    units = len(by_popularity)
    beside: list[list[int]] = [[] for _ in range(units)]
    head = list(range(units))  # union-find over chains

    def find(unit: int) -> int:
        while head[unit] != unit:
            head[unit] = head[head[unit]]
            unit = head[unit]
        return unit

    for one, other in pairs.tolist():
        if len(beside[one]) < 2 and len(beside[other]) < 2 and find(one) != find(other):
            head[find(one)] = find(other)
            beside[one].append(other)
            beside[other].append(one)
    order: list[int] = []
    placed = np.zeros(units, dtype=np.bool_)
    for unit in by_popularity.tolist():
        if not placed[unit]:
            chain = _chain_through(unit, beside)
            placed[chain] = True
            order += chain
    return np.array(order, dtype=np.int64)


def _chain_through(unit: int, beside: list[list[int]]) -> list[int]:
    """The chain that a unit is in, from one of its ends."""
    ends = [_walk(unit, first, beside) for first in beside[unit]]
    left = ends[0][::-1] if ends else []
    return [*left, unit, *(ends[1] if len(ends) > 1 else [])]


def _walk(unit: int, towards: int, beside: list[list[int]]) -> list[int]:
    """The units from `towards` on, away from `unit`, to the end of the chain."""
    found, before = [towards], unit
    while True:
        onward = [u for u in beside[found[-1]] if u != before]
        if not onward:
            return found
        before = found[-1]
        found.append(onward[0])
