"""The replay of a whole model: made-up masks run through the caches of all sites, on all cores.

The process's memory is what is measured beside its time, so nothing that holds torch is imported here.
Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipc import native
from dipc.cache.policy import get_policy
from dipc.memory.trace import Packed, accesses_by_unit
from dipc.studies.bench.candidates.case import Case, Cases
from dipc.studies.bench.candidates.plugins import load_files
from dipc.studies.bench.candidates.random_masks import make_masks

CASE = "model"


def replay_sites(
    *,
    sites: Sequence[tuple[int, int]],
    tokens: int,
    cases: Sequence[tuple[str, float]],
    threads: int,
    pool_tokens: int,
    seed: int,
    plugins: Sequence[str] = (),
) -> Cases:
    """Set up all sites, each with its units and how many of them a token touches, with caches of shares of the units.

    The answer: seconds, the process's largest memory in bytes, and the hits of each cache.
    """
    load_files(plugins)

    def call(number: int) -> NDArray[np.float64]:
        start = time.perf_counter()
        pools = {shape: make_masks(*shape, pool_tokens, seed) for shape in sorted({(u, k) for u, k in sites})}

        def replay(place: int) -> NDArray[np.int64]:
            units, active = sites[place]
            return _replay_pool(pools[units, active], units, cases, tokens, 37 * place)

        with ThreadPoolExecutor(threads) as pool:
            hits = sum(pool.map(replay, range(len(sites))))
        return np.array([time.perf_counter() - start, _peak_bytes(), *np.atleast_1d(hits)], np.float64)

    return {CASE: Case(call)}


def _replay_pool(
    pool_TB: Packed, units: int, cases: Sequence[tuple[str, float]], tokens: int, first: int
) -> NDArray[np.int64]:
    """Count the hits of each cache, where a site's tokens go through the pool again and again from `first` on."""
    uses = accesses_by_unit(pool_TB, units)
    numbered = [(get_policy(policy).native_number, round(share * units)) for policy, share in cases]
    caches = native.SiteCaches(units, [(n, capacity) for n, capacity in numbered if n is not None], uses)
    hits = np.zeros(len(cases), np.int64)
    at, left = first % len(pool_TB), tokens
    while left:
        piece_TB = pool_TB[at : at + left]
        hits += caches.run(piece_TB)[0].sum(axis=1)
        at, left = 0, left - len(piece_TB)
    return hits


def _peak_bytes() -> int:
    """Return the most memory that this process held so far; 0 where the system does not say."""
    # Linux's getrusage would count the process that started this one, before this one's program was loaded.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    held = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(held[0]) if held else 0
