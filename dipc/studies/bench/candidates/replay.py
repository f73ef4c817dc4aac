"""The replay of one site's trace: masks run through caches, by dipc's two paths and by libCacheSim.

Nothing that holds torch is imported here: what is timed is numpy, the native library and libCacheSim.
Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipc.cache import get_policy
from dipc.cache.replay import replay_site
from dipc.errors import MissingDependency
from dipc.memory.trace import Packed, accesses_by_unit
from dipc.native.call import opened
from dipc.studies.bench.candidates.case import Case, Cases
from dipc.studies.bench.candidates.plugins import load_files
from dipc.studies.bench.candidates.random_masks import make_masks

TOGETHER = "all at once"
"""The case of all policies, each at several capacities, in one pass."""


@dataclass(frozen=True)
class ReplayTask:
    """The work of every candidate: traces of one site, which run through caches.

    Attributes:
        units: U.
        tokens: T.
        active: units that a token touches, by the density as text; each makes a trace.
        capacity: units that fit.
        seed: of the masks.
    """

    units: int
    tokens: int
    active: Mapping[str, int]
    capacity: int
    seed: int

    def traces(self) -> dict[str, Packed]:
        """Return the masks [T, B] by density."""
        return {density: make_masks(self.units, k, self.tokens, self.seed) for density, k in self.active.items()}


def case_name(policy: str, density: str) -> str:
    """Return what candidates call the replay of the trace of a density under a policy."""
    return f"{policy}, density {density}"


def native_replay(task: ReplayTask, policies: Sequence[str], plugins: Sequence[str] = ()) -> Cases:
    """Set up `replay_site` on the native library: each policy, and all at once with 1/2, 1 and 3/2 of the capacity."""
    opened()
    load_files(plugins)
    cases = _by_policy(task, policies)
    together = [(policy, task.capacity * halves // 2) for policy in policies for halves in (1, 2, 3)]
    for density, packed_TB in task.traces().items():
        cases[case_name(TOGETHER, density)] = _replaying(packed_TB, task.units, together)
    return cases


def numpy_replay(task: ReplayTask, policies: Sequence[str], plugins: Sequence[str] = ()) -> Cases:
    """Set up `replay_site` as it is where no library was built."""
    os.environ["DIPC_NATIVE"] = "0"
    load_files(plugins)
    return _by_policy(task, policies)


def libcachesim_replay(task: ReplayTask, policies: Sequence[str]) -> Cases:
    """Set up libCacheSim's LFU and LRU, which take one unit after the other from a file that they map."""
    try:
        import libcachesim  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingDependency("libCacheSim is not installed: pip install libcachesim") from error

    caches = {"lfu": libcachesim.LFU, "lru": libcachesim.LRU}
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for density, packed_TB in task.traces().items():
            file = Path(folder) / f"{density}.oracleGeneral"
            requests = _write_requests(packed_TB, task.units, file)
            reader = libcachesim.TraceReader(str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
            for policy in policies:
                if policy in caches:
                    call = _requesting(caches[policy], reader, requests, task.units, task.capacity)
                    cases[case_name(policy, density)] = Case(call, task.tokens)
    return cases


def _by_policy(task: ReplayTask, policies: Sequence[str]) -> dict[str, Case]:
    return {
        case_name(policy, density): _replaying(packed_TB, task.units, [(policy, task.capacity)])
        for density, packed_TB in task.traces().items()
        for policy in policies
    }


def _replaying(packed_TB: Packed, units: int, named: Sequence[tuple[str, int]]) -> Case:
    cases = [(get_policy(policy), capacity) for policy, capacity in named]
    uses = accesses_by_unit(packed_TB, units)  # what `static` goes by

    def call(number: int) -> NDArray[np.float64]:
        found = replay_site(packed_TB, units, cases, popularity=uses)
        return np.array([sum(int(site.hits_T.sum()) for site in found), len(found)], np.float64)

    return Case(call, len(packed_TB))


def _write_requests(packed_TB: Packed, units: int, file: Path) -> int:
    """Write the touched units, token by token, as libCacheSim's oracleGeneral: time, object, size, next use."""
    token, unit = np.nonzero(np.unpackbits(packed_TB, axis=1, count=units))
    records = np.zeros(len(unit), np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")]))
    records["time"], records["object"], records["size"], records["next"] = token, unit + 1, 1, -2
    records.tofile(file)
    return len(unit)


def _requesting(
    cache: Any, reader: Any, requests: int, units: int, capacity: int
) -> Callable[[int], NDArray[np.float64]]:
    # A hash table about four times as large as the site: the default, 2**24 entries, lies in no processor's cache.
    hashpower = units.bit_length() + 1

    def call(number: int) -> NDArray[np.float64]:
        reader.reset()
        missed, _ = cache(cache_size=capacity, hashpower=hashpower).process_trace(reader)
        return np.array([(1 - missed) * requests, 1], np.float64)

    return call
