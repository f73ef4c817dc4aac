"""What the processes of `dipc bench replay` do: run one trace through caches, again and again.

Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipc import native
from dipc.cache import get_policy
from dipc.cache.replay import replay_site
from dipc.errors import MissingDependency
from dipc.memory.trace import Packed, accesses_by_unit
from dipc.studies.bench.case import Case, Cases, require_library

TOGETHER = "all at once"
"""The case of all policies, each at several capacities, in one pass."""

MODEL, WHOLE_MODEL = "model", "dipc.studies.bench.replay_worker:model_replay"
"""The one case of a whole model's replay, and what sets it up."""

POOL_TOKENS = 512

LASTING = 0.5
"""How much of a unit's deviation from its popularity lasts to the next token."""


def case_name(policy: str, density: str) -> str:
    """What contenders call the replay of the trace of a density under a policy."""
    return f"{policy}, density {density}"


def make_masks(units: int, active: int, tokens: int, seed: int) -> Packed:
    """Masks uint8 [T, B] with `active` units each: units have a popularity, and noise of which half lasts."""
    random = np.random.default_rng(seed)
    popularity, noise = random.standard_normal((2, units), np.float32)
    packed_TB = np.empty((tokens, -(-units // 8)), np.uint8)
    for token in range(tokens):
        noise = LASTING * noise + np.sqrt(1 - LASTING**2) * random.standard_normal(units, np.float32)
        mask = np.zeros(units, np.bool_)
        mask[np.argpartition(popularity + noise, units - active)[units - active :]] = True
        packed_TB[token] = np.packbits(mask)
    return packed_TB


def native_replay(*, policies: Sequence[str], **trace: Any) -> Cases:
    """`replay_site` on the native library, policy by policy, and all at once with 1/2, 1 and 3/2 of the capacity."""
    require_library()
    cases = _our_cases(policies, **trace)
    together = [(policy, trace["capacity"] * halves // 2) for policy in policies for halves in (1, 2, 3)]
    for density, packed_TB in _traces(**trace).items():
        cases[case_name(TOGETHER, density)] = _replaying(packed_TB, trace["units"], together)
    return cases


def numpy_replay(*, policies: Sequence[str], **trace: Any) -> Cases:
    """`replay_site` as it is where no library was built."""
    os.environ["DIPC_NATIVE"] = "0"
    return _our_cases(policies, **trace)


def libcachesim_replay(*, policies: Sequence[str], **trace: Any) -> Cases:
    """libCacheSim's LFU and LRU, which take one unit after the other from a file that it maps."""
    try:
        import libcachesim  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingDependency("libCacheSim is not installed: pip install libcachesim") from error

    caches = {"lfu": libcachesim.LFU, "lru": libcachesim.LRU}
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for density, packed_TB in _traces(**trace).items():
            file = Path(folder) / f"{density}.oracleGeneral"
            requests = _write_requests(packed_TB, trace["units"], file)
            reader = libcachesim.TraceReader(str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
            for policy in policies:
                if policy in caches:
                    call = _requesting(caches[policy], reader, requests, trace["units"], trace["capacity"])
                    cases[case_name(policy, density)] = Case(call, trace["tokens"])
    return cases


def _traces(*, units: int, tokens: int, active: Mapping[str, int], seed: int, capacity: int) -> dict[str, Packed]:
    return {density: make_masks(units, count, tokens, seed) for density, count in active.items()}


def _our_cases(policies: Sequence[str], **trace: Any) -> dict[str, Case]:
    return {
        case_name(policy, density): _replaying(packed_TB, trace["units"], [(policy, trace["capacity"])])
        for density, packed_TB in _traces(**trace).items()
        for policy in policies
    }


def _replaying(packed_TB: Packed, units: int, named: Sequence[tuple[str, int]]) -> Case:
    cases = [(get_policy(policy), capacity) for policy, capacity in named]
    uses = accesses_by_unit(packed_TB, units)  # what `static` goes by

    def call(number: int) -> NDArray[Any]:
        found = replay_site(packed_TB, units, cases, popularity=uses)
        return np.array([sum(int(site.hits_T.sum()) for site in found), len(found)], np.float64)

    return Case(call, len(packed_TB))


def _write_requests(packed_TB: Packed, units: int, file: Path) -> int:
    """The touched units, token by token, as libCacheSim's oracleGeneral records: time, object, size, next use."""
    token, unit = np.nonzero(np.unpackbits(packed_TB, axis=1, count=units))
    records = np.zeros(len(unit), np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")]))
    records["time"], records["object"], records["size"], records["next"] = token, unit + 1, 1, -2
    records.tofile(file)
    return len(unit)


def _requesting(cache: Any, reader: Any, requests: int, units: int, capacity: int) -> Callable[[int], NDArray[Any]]:
    # A hash table about four times as large as the site: the default, 2**24 entries, lies in no processor's cache.
    hashpower = units.bit_length() + 1

    def call(number: int) -> NDArray[Any]:
        reader.reset()
        missed, _ = cache(cache_size=capacity, hashpower=hashpower).process_trace(reader)
        return np.array([(1 - missed) * requests, 1], np.float64)

    return call


def model_replay(
    *,
    sites: Sequence[tuple[int, int]],
    tokens: int,
    cases: Sequence[tuple[str, float]],
    threads: int,
    pool_tokens: int,
    seed: int,
) -> Cases:
    """All sites, each with its units and how many of them a token touches, through caches of shares of the units.

    The answer: seconds, the process's largest memory in bytes, and the hits of each case.
    """

    def call(number: int) -> NDArray[Any]:
        start = time.perf_counter()
        pools = {shape: make_masks(*shape, pool_tokens, seed) for shape in sorted({(u, k) for u, k in sites})}

        def replay(place: int) -> NDArray[np.int64]:
            units, active = sites[place]
            return _replay_pool(pools[units, active], units, cases, tokens, 37 * place)

        with ThreadPoolExecutor(threads) as pool:
            hits = sum(pool.map(replay, range(len(sites))))
        return np.array([time.perf_counter() - start, _peak_bytes(), *np.atleast_1d(hits)], np.float64)

    return {MODEL: Case(call)}


def _replay_pool(
    pool_TB: Packed, units: int, cases: Sequence[tuple[str, float]], tokens: int, first: int
) -> NDArray[np.int64]:
    """Hits of each case, where a site's tokens go through the pool again and again from `first` on."""
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
    """The most memory that this process held so far; 0 where the system does not say."""
    # Linux's getrusage would count the process that started this one, before this one's program was loaded.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    held = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(held[0]) if held else 0
