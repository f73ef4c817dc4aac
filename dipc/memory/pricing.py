"""Traffic, DRAM and a device -> the time of each token.

Flash reads are the misses, DRAM reads what is resident, the KV cache and the hits; a token takes the longer of the two
times where the device overlaps them (as the paper's dense figures imply: Table 6, 6 GB), else their sum.

Shapes: T counted tokens, U units of a site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dipc.cache.policy import Policy, clamp_capacity
from dipc.cache.replay import full_hits, replay_site
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.memory.allocation import Allocation
from dipc.memory.flash import FlashReadOptions, Layout
from dipc.memory.flash.layout import order_of
from dipc.memory.flash.reads import FlashPlacement, full_reads, seconds_per_read, selected_reads, separate_reads
from dipc.memory.price import Case, Floats, Ints, Price, SitePrice
from dipc.memory.trace import Trace, accesses_by_token, accesses_by_unit
from dipc.memory.traffic import Site, TrafficProgram

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
    reads: FlashReadOptions | None = None,
) -> Price:
    """One case of `price_many`, which explains the arguments."""
    case = Case(allocation, device, policy, reads or FlashReadOptions())
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

    Cases with the same policy and capacities share one replay of the trace, and those with the same reads one look at
    what was missed, so another flash speed costs next to nothing. Sites are priced on all cores, and no others are in
    memory meanwhile, so a mapped trace may be larger than it. Sites that are read in full are taken as warm from the
    first token; the others start with an empty cache.

    Args:
        traffic: the program.
        cases: what to price it on.
        trace: masks of all sites that are not read in full; None if there is no such site.
        warmup: tokens at the start of the trace that fill the cache and are not counted.
        popularity: int64 [U] in [0, 2**25) by site, for policies that rank by it; by default counted on the warm-up.

    Raises:
        UsageError: the trace is missing, does not belong to the program, or has no token left to count; or a policy
            ranks by popularity and there is neither popularity nor a warm-up token; or a device's file lacks the
            figures for the reads that are asked for.
    """
    for case in cases:
        case.reads.check(case.device)
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
    flash_bytes = _sum([site.flash_bytes_T for site in sites.values()], tokens)
    dram_bytes = _sum([site.dram_bytes_T for site in sites.values()], tokens) + resident
    dram_s = dram_bytes / device.dram_bandwidth
    return Price(
        latency_s=np.maximum(flash_s, dram_s) if case.overlap else flash_s + dram_s,
        flash_s=flash_s,
        dram_s=dram_s,
        flash_bytes=flash_bytes,
        dram_bytes=dram_bytes,
        sites=sites,
        resident_read_bytes=resident,
        allocation=case.allocation,
        label=traffic.label,
        device=device.name,
        dram_bytes_per_s=device.dram_bandwidth,
        reads=case.reads.described(device),
        policy=case.policy.name,
        popularity="" if trace is None or case.policy.counts else popularity,
        overlap=case.overlap,
        warmup=0 if trace is None else trace.tokens - tokens,
        trace_meta={} if trace is None else dict(trace.meta),
        energy_j=_energy(device, flash_bytes, dram_bytes),
    )


def _sum(parts: Sequence[Floats], tokens: int) -> Floats:
    total = np.zeros(tokens)
    for part in parts:
        total += part
    return total


def _energy(device: Device, flash_bytes: Floats, dram_bytes: Floats) -> Floats | None:
    if device.energy is None:
        return None
    joules: Floats = flash_bytes * device.energy.flash.value + dram_bytes * device.energy.dram.value
    return joules


def _full_site(site: Site, case: Case, tokens: int) -> SitePrice:
    """A site whose every unit is read for every token: the same hits, and misses in one stretch, for each."""
    hits = full_hits(site.units, case.allocation.capacities[site.name], case.policy)
    size_bytes, reads, seconds = full_reads(site, hits, case.reads, case.device)

    def each(value: int | float) -> Any:
        return np.broadcast_to(np.asarray(value), tokens)

    return SitePrice(
        site.layer, site.unit_bytes, each(site.units), each(hits), each(size_bytes), each(reads), each(seconds)
    )


def _selecting_site(
    site: Site, cases: Sequence[Case], trace: Trace, warmup: int, popularity: Mapping[str, Ints] | None
) -> list[SitePrice]:
    """A site whose masks choose its units: first all replays, then the reads that their misses make."""
    packed_TB = trace.sites[site.name]
    accesses_T = accesses_by_token(packed_TB[warmup:])
    ways = [_way(site, case) for case in cases]
    caches = list(dict.fromkeys((way.policy, way.capacity) for way in ways))
    counts = _popularity(site, trace, warmup, popularity) if any(not policy.counts for policy, _ in caches) else None
    missed = not all(way.placement.separate for way in ways)
    replays = replay_site(packed_TB, site.units, caches, popularity=counts, missed=missed)
    orders = {layout: _order(layout, site, trace, warmup) for layout in {way.layout for way in ways}}
    made: dict[int, SitePrice] = {}
    for way in dict.fromkeys(ways):
        replay = replays[caches.index((way.policy, way.capacity))]
        alike = [n for n, other in enumerate(ways) if other == way]
        timings = [seconds_per_read(cases[n].device, cases[n].reads) for n in alike]
        hits_T = replay.hits_T[warmup:]
        if way.placement.separate:
            reads = [separate_reads(accesses_T - hits_T, way.placement, seconds) for seconds in timings]
        else:
            assert replay.missed_TB is not None
            reads = selected_reads(replay.missed_TB[warmup:], orders[way.layout], way.placement, timings)
        for n, found in zip(alike, reads, strict=True):
            made[n] = SitePrice(
                site.layer, site.unit_bytes, accesses_T, hits_T, found.bytes_T, found.reads_T, found.seconds_T
            )
    return [made[n] for n in range(len(cases))]


class _Way(NamedTuple):
    """The things that a site's reads depend on, besides how fast they are."""

    policy: Policy
    capacity: int
    layout: Layout
    placement: FlashPlacement


def _way(site: Site, case: Case) -> _Way:
    capacity = clamp_capacity(case.policy, case.allocation.capacities[site.name], site.units)
    return _Way(case.policy, capacity, case.reads.layout, FlashPlacement.of(site, case.reads, case.device))


def _order(layout: Layout, site: Site, trace: Trace, warmup: int) -> Ints | None:
    """The unit at each place of the site's file, int64 [U], made from the warm-up tokens; None: as numbered."""
    if layout == "file":
        return None
    if warmup == 0:
        raise UsageError(f"layout={layout} is made from the warm-up tokens, and there is none; give some")
    return order_of(layout, trace.sites[site.name][:warmup], site.units)


def _popularity(site: Site, trace: Trace, warmup: int, given: Mapping[str, Ints] | None) -> Ints:
    """int64 [U]: how popular each unit is held to be."""
    if given is not None:
        if site.name not in given:
            raise UsageError(f"the popularity given has no site {site.name}; give that of this program")
        return given[site.name]
    if warmup == 0:
        raise UsageError("a policy that ranks by popularity needs warm-up tokens to count it on, or a calibration")
    return accesses_by_unit(trace.sites[site.name][:warmup], site.units)


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
