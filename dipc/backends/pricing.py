"""Traffic, DRAM and a device -> the time of each token.

Flash reads are the misses, DRAM reads what is resident, the KV cache and the hits; a token takes the longer of the two
times where the device overlaps them (as the paper's dense figures imply: Table 6, 6 GB), else their sum.

Shapes: T counted tokens, U units of a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dipc.cache.policy import Policy
from dipc.cache.replay import full_hits, replay
from dipc.errors import UsageError
from dipc.hardware import Device
from dipc.trace import Trace
from dipc.traffic import Allocation, Site, TrafficProgram

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SiteCount:
    """Accesses to one site's cache over all counted tokens, in units."""

    accesses: int
    hits: int
    unit_bytes: float

    @property
    def hit_rate(self) -> float:
        """Hits per access; 0 where nothing was read."""
        return self.hits / self.accesses if self.accesses else 0.0


@dataclass(frozen=True, eq=False)
class Price:
    """What each counted token costs, and everything that the figures hang on."""

    latency_s: Floats
    """[T] time of each token."""
    flash_s: Floats
    """[T] time of its flash reads."""
    dram_s: Floats
    """[T] time of its DRAM reads."""
    flash_bytes: Floats
    """[T] bytes read from flash."""
    dram_bytes: Floats
    """[T] bytes read from DRAM."""
    sites: dict[str, SiteCount]
    allocation: Allocation
    label: str
    """The program's."""
    device: str
    policy: str
    overlap: bool
    warmup: int
    """Tokens replayed before the first counted one."""
    trace_meta: dict[str, str | int | float]
    """The trace's metadata; empty if there was none."""

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.latency_s)

    @property
    def throughput(self) -> float:
        """Tokens per second over the whole trace."""
        return self.tokens / float(self.latency_s.sum())

    @property
    def flash_bytes_per_token(self) -> float:
        """Mean bytes read from flash."""
        return float(self.flash_bytes.mean())

    @property
    def dram_bytes_per_token(self) -> float:
        """Mean bytes read from DRAM."""
        return float(self.dram_bytes.mean())

    @property
    def hit_rate(self) -> float:
        """Hits per access in bytes, over all sites; 0 where nothing was read."""
        return _rate(sum(s.hits * s.unit_bytes for s in self.sites.values()), self._accesses_bytes)

    @property
    def hit_rate_units(self) -> float:
        """Hits per access in units, over all sites; 0 where nothing was read."""
        return _rate(sum(s.hits for s in self.sites.values()), sum(s.accesses for s in self.sites.values()))

    @property
    def bound(self) -> Literal["flash", "dram"]:
        """Which of the two takes longer in total."""
        return "flash" if self.flash_s.sum() > self.dram_s.sum() else "dram"

    @property
    def _accesses_bytes(self) -> float:
        return sum(s.accesses * s.unit_bytes for s in self.sites.values())


def price(
    traffic: TrafficProgram,
    allocation: Allocation,
    device: Device,
    policy: Policy,
    trace: Trace | None,
    *,
    warmup: int = 0,
) -> Price:
    """Price every token of a trace; for a program without selection, the one token that all are like.

    Sites that are read in full are taken as warm from the first token. The others start with an empty cache.

    Args:
        traffic: the program.
        allocation: of the device's DRAM, by `dipc.traffic.allocate`.
        device: its bandwidths, and whether flash and DRAM transfers overlap.
        policy: the eviction policy of all sites.
        trace: masks of all sites that are not read in full; None if there is no such site.
        warmup: tokens at the start of the trace that fill the cache and are not counted.

    Raises:
        UsageError: the trace is missing, does not belong to the program, or has no token left to count.
    """
    tokens = _check_trace(traffic, trace, warmup)
    flash_bytes, flash_s, hit_bytes = (np.zeros(tokens) for _ in range(3))
    sites: dict[str, SiteCount] = {}
    for site in traffic.sites:
        accesses, hits = _count(site, allocation.capacities[site.name], policy, trace, tokens, warmup)
        missed_bytes = (accesses - hits).astype(np.float64) * site.unit_bytes
        flash_bytes += missed_bytes
        flash_s += _flash_seconds(site, missed_bytes, device)
        hit_bytes += hits * site.unit_bytes
        sites[site.name] = SiteCount(int(accesses.sum()), int(hits.sum()), site.unit_bytes)
    dram_bytes = hit_bytes + traffic.resident_bytes - traffic.resident_unread_bytes + allocation.kv_bytes
    dram_s = dram_bytes / device.dram.bandwidth.value
    return Price(
        latency_s=np.maximum(flash_s, dram_s) if device.overlap else flash_s + dram_s,
        flash_s=flash_s,
        dram_s=dram_s,
        flash_bytes=flash_bytes,
        dram_bytes=dram_bytes,
        sites=sites,
        allocation=allocation,
        label=traffic.label,
        device=device.name,
        policy=policy.name,
        overlap=device.overlap,
        warmup=warmup,
        trace_meta=dict(trace.meta) if trace else {},
    )


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


def _count(
    site: Site, capacity: int, policy: Policy, trace: Trace | None, tokens: int, warmup: int
) -> tuple[Ints, Ints]:
    """Accesses and hits of a site per counted token, int64 [T] each, in units."""
    if site.full or trace is None:
        hits = full_hits(site.units, capacity, policy)
        return np.full(tokens, site.units), np.full(tokens, hits)
    mask_TU = trace.mask(site.name)
    accesses = np.count_nonzero(mask_TU, axis=1)
    return accesses[warmup:], replay(mask_TU, capacity, policy)[warmup:]


def _flash_seconds(site: Site, missed_bytes: Floats, device: Device) -> Floats:
    """[T] time of a site's flash reads, at the bandwidth of its chunk."""
    if not missed_bytes.any():
        return np.zeros_like(missed_bytes)
    # What is read in full for every token misses the same units each time: one run, laid out in order.
    chunk_bytes = float(missed_bytes[0]) if site.full else site.unit_bytes
    return missed_bytes / device.flash_bandwidth(chunk_bytes)


def _rate(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
