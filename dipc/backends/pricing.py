"""Traffic, DRAM and a device -> the time of each token.

Flash reads are the misses, DRAM reads what is resident, the KV cache and the hits; a token takes the longer of the two
times where the device overlaps them (as the paper's dense figures imply: Table 6, 6 GB), else their sum.

Shapes: T counted tokens, W warm-up tokens before them, U units of a site.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dipc.backends.price import Case, Floats, Ints, Price, SitePrice
from dipc.cache.policy import Policy, clamp_capacity
from dipc.cache.replay import full_hits, replay_site
from dipc.errors import UsageError
from dipc.hardware import Device
from dipc.trace import Trace
from dipc.traffic import Allocation, Site, TrafficProgram

__all__ = ["Case", "Price", "SitePrice", "price", "price_many"]


def price(
    traffic: TrafficProgram,
    allocation: Allocation,
    device: Device,
    policy: Policy,
    trace: Trace | None,
    *,
    warmup: int = 0,
    popularity: Mapping[str, Ints] | None = None,
) -> Price:
    """One case of `price_many`, which explains the arguments."""
    case = Case(allocation, device, policy)
    return price_many(traffic, [case], trace, warmup=warmup, popularity=popularity)[0]


def price_many(
    traffic: TrafficProgram,
    cases: Sequence[Case],
    trace: Trace | None,
    *,
    warmup: int = 0,
    popularity: Mapping[str, Ints] | None = None,
) -> list[Price]:
    """Price every token of a trace in several cases; for a program without selection, the one token that all are like.

    Cases with the same policy and capacities share one replay of the trace, so another flash speed costs next to
    nothing. Sites are priced on all cores. Those that are read in full are taken as warm from the first token; the
    others start with an empty cache.

    Args:
        traffic: the program.
        cases: what to price it on.
        trace: masks of all sites that are not read in full; None if there is no such site.
        warmup: tokens at the start of the trace that fill the cache and are not counted.
        popularity: int64 [U] by site, for policies that rank by it; by default counted on the warm-up tokens.

    Raises:
        UsageError: the trace is missing, does not belong to the program, or has no token left to count; or a policy
            ranks by popularity and there is neither popularity nor a warm-up token.
    """
    tokens = _check_trace(traffic, trace, warmup)

    def price_site(site: Site) -> list[SitePrice]:
        if site.full or trace is None:
            return [_full_site(site, case, tokens) for case in cases]
        return _selecting_site(site, cases, trace, warmup, popularity)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        by_site = list(pool.map(price_site, traffic.sites))
    counted = f"counted on the first {warmup:,} tokens" if popularity is None else "given"
    names = [site.name for site in traffic.sites]
    return [
        _total(traffic, case, dict(zip(names, (row[n] for row in by_site), strict=True)), trace, tokens, counted)
        for n, case in enumerate(cases)
    ]


def _total(
    traffic: TrafficProgram,
    case: Case,
    sites: dict[str, SitePrice],
    trace: Trace | None,
    tokens: int,
    popularity: str,
) -> Price:
    device = case.device
    resident = traffic.resident_bytes - traffic.resident_unread_bytes + case.allocation.kv_bytes
    flash_s = _sum([site.flash_s_T for site in sites.values()], tokens)
    dram_bytes = _sum([site.dram_bytes_T for site in sites.values()], tokens) + resident
    dram_s = dram_bytes / device.dram_bandwidth
    return Price(
        latency_s=np.maximum(flash_s, dram_s) if device.overlap else flash_s + dram_s,
        flash_s=flash_s,
        dram_s=dram_s,
        flash_bytes=_sum([site.flash_bytes_T for site in sites.values()], tokens),
        dram_bytes=dram_bytes,
        sites=sites,
        resident_read_bytes=resident,
        allocation=case.allocation,
        label=traffic.label,
        device=device.name,
        dram_bytes_per_s=device.dram_bandwidth,
        policy=case.policy.name,
        popularity="" if trace is None or case.policy.counts else popularity,
        overlap=device.overlap,
        warmup=0 if trace is None else trace.tokens - tokens,
        trace_meta={} if trace is None else dict(trace.meta),
    )


def _sum(parts: Sequence[Floats], tokens: int) -> Floats:
    total = np.zeros(tokens)
    for part in parts:
        total += part
    return total


def _full_site(site: Site, case: Case, tokens: int) -> SitePrice:
    """A site whose every unit is read for every token: the same hits, and misses in one run, for each."""
    hits = full_hits(site.units, case.allocation.capacities[site.name], case.policy)
    missed_bytes = (site.units - hits) * site.unit_bytes
    seconds = missed_bytes / case.device.flash_bandwidth(missed_bytes) if missed_bytes else 0.0

    def each(value: int | float) -> Any:
        return np.broadcast_to(np.asarray(value), tokens)

    return SitePrice(site.layer, site.unit_bytes, each(site.units), each(hits), each(missed_bytes), each(seconds))


def _selecting_site(
    site: Site, cases: Sequence[Case], trace: Trace, warmup: int, popularity: Mapping[str, Ints] | None
) -> list[SitePrice]:
    packed_TB = trace.sites[site.name]
    accesses_T = np.bitwise_count(packed_TB).sum(axis=1, dtype=np.int64)[warmup:]
    caches = [(c.policy, clamp_capacity(c.policy, c.allocation.capacities[site.name], site.units)) for c in cases]
    distinct = list(dict.fromkeys(caches))
    counts = None
    if any(not policy.counts for policy, _ in distinct):
        counts = _popularity(site, trace, warmup, popularity)
    replays = dict(zip(distinct, replay_site(packed_TB, site.units, distinct, popularity=counts), strict=True))
    return [
        _site_price(site, case, accesses_T, replays[cache].hits_T[warmup:])
        for case, cache in zip(cases, caches, strict=True)
    ]


def _popularity(site: Site, trace: Trace, warmup: int, given: Mapping[str, Ints] | None) -> Ints:
    """int64 [U]: how popular each unit is held to be."""
    if given is not None:
        if len(given.get(site.name, ())) != site.units:
            raise UsageError(f"the popularity given has no {site.units} units of the site {site.name}")
        return given[site.name]
    if warmup == 0:
        raise UsageError("a policy that ranks by popularity needs warm-up tokens to count it on, or a calibration")
    warmup_WU = np.unpackbits(trace.sites[site.name][:warmup], axis=1, count=site.units)
    counts: Ints = warmup_WU.sum(axis=0, dtype=np.int64)
    return counts


def _site_price(site: Site, case: Case, accesses_T: Ints, hits_T: Ints) -> SitePrice:
    missed_bytes_T = (accesses_T - hits_T).astype(np.float64) * site.unit_bytes
    seconds_T: Floats = missed_bytes_T / case.device.flash_bandwidth(site.unit_bytes)
    return SitePrice(site.layer, site.unit_bytes, accesses_T, hits_T, missed_bytes_T, seconds_T)


def _check_trace(traffic: TrafficProgram, trace: Trace | None, warmup: int) -> int:
    """The number of tokens to count."""
    selecting = {site.name: site.units for site in traffic.sites if not site.full}
    if trace is None:
        if selecting:
            raise UsageError(f"{traffic.label} selects units per token; give a trace of its activity")
        return 1
    _check_sites(traffic.label, selecting, trace.units)
    if not 0 <= warmup < trace.tokens:
        raise UsageError(f"warmup is {warmup} of the trace's {trace.tokens} tokens; leave at least one to count")
    return trace.tokens - warmup


def _check_sites(label: str, selecting: Mapping[str, int], recorded: Mapping[str, int]) -> None:
    for name, units in selecting.items():
        if name not in recorded:
            raise UsageError(f"the trace has no site {name!r}, which {label} has; give a trace of this program")
        if recorded[name] != units:
            raise UsageError(
                f"site {name!r} has {recorded[name]} units in the trace and {units} in {label}; "
                "give a trace of this program"
            )
