"""A price: the cost of every counted token, in all and site by site.

Shapes: T counted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from dipc.cache.policy import Policy
from dipc.hardware.device import Device
from dipc.memory.allocation import Allocation
from dipc.memory.flash import FlashReadOptions

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """One price that is asked for: a program on a device under a policy."""

    allocation: Allocation
    """The program's share of the device's DRAM, by `dipc.memory.allocation.allocate`."""
    device: Device
    """Its bandwidths, and whether flash and DRAM transfers overlap."""
    policy: Policy
    """The eviction policy of all sites."""
    reads: FlashReadOptions = field(default_factory=FlashReadOptions)
    """How misses become reads."""

    @property
    def overlap(self) -> bool:
        """Return whether flash and DRAM are read at the same time."""
        return self.device.overlap if self.reads.overlap is None else self.reads.overlap


@dataclass(frozen=True, eq=False)
class SitePrice:
    """The cost of one site for each counted token. Arrays may be read-only views."""

    layer: int
    """The MLP layer that it belongs to."""
    unit_bytes: float
    accesses_T: Ints
    """[T] units touched."""
    hits_T: Ints
    """[T] those of them that were in the cache."""
    flash_bytes_T: Floats
    """[T] bytes read from flash, needed or not."""
    reads_T: Ints
    """[T] reads that they came in."""
    flash_s_T: Floats
    """[T] time of these reads."""

    @property
    def accesses(self) -> int:
        """Units touched, over all counted tokens."""
        return int(self.accesses_T.sum())

    @property
    def hits(self) -> int:
        """Those of them that were in the cache."""
        return int(self.hits_T.sum())

    @property
    def hit_rate(self) -> float:
        """Hits per access; 0 where nothing was read."""
        return _ratio(self.hits, self.accesses)

    @property
    def dram_bytes_T(self) -> Floats:
        """[T] bytes read from DRAM: the hits."""
        return self.hits_T.astype(np.float64) * self.unit_bytes

    @property
    def needed_bytes_T(self) -> Floats:
        """[T] bytes of the missed units."""
        return (self.accesses_T - self.hits_T).astype(np.float64) * self.unit_bytes


@dataclass(frozen=True, eq=False)
class Price:
    """The cost of each counted token, and everything that the figures hang on."""

    latency_s: Floats
    """[T] time of each token."""
    flash_s: Floats
    """[T] time of its flash reads."""
    dram_s: Floats
    """[T] time of its DRAM reads."""
    flash_bytes: Floats
    """[T] bytes read from flash, needed or not."""
    dram_bytes: Floats
    """[T] bytes read from DRAM."""
    sites: dict[str, SitePrice]
    resident_read_bytes: float
    """The part of `dram_bytes` that belongs to no site: resident weights and the KV cache."""
    allocation: Allocation
    label: str
    """The program's."""
    device: str
    dram_bytes_per_s: float
    reads: str
    """How misses become reads, in words."""
    policy: str
    popularity: str
    """Where the counts of a policy come from that ranks by popularity; empty for the others."""
    overlap: bool
    warmup: int
    """Tokens replayed before the first counted one."""
    trace_meta: dict[str, str | int | float]
    """The trace's metadata; empty if there was none."""
    energy_j: Floats | None
    """[T] energy of all reads in joules; None where the device's file does not give it."""

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
    def reads_per_token(self) -> float:
        """Mean number of flash reads."""
        return sum(int(site.reads_T.sum()) for site in self.sites.values()) / self.tokens

    @property
    def read_amplification(self) -> float:
        """Bytes read from flash over bytes of missed units; 1 where nothing was missed."""
        needed = sum(float(site.needed_bytes_T.sum()) for site in self.sites.values())
        return float(self.flash_bytes.sum()) / needed if needed else 1.0

    @property
    def energy_j_per_token(self) -> float | None:
        """Mean energy of all reads in joules; None where the device's file does not give it."""
        return None if self.energy_j is None else float(self.energy_j.mean())

    @property
    def hit_rate(self) -> float:
        """Hits per access in bytes, over all sites; 0 where nothing was read."""
        sites = self.sites.values()
        return _ratio(sum(s.hits * s.unit_bytes for s in sites), sum(s.accesses * s.unit_bytes for s in sites))

    @property
    def hit_rate_units(self) -> float:
        """Hits per access in units, over all sites; 0 where nothing was read."""
        return _ratio(sum(s.hits for s in self.sites.values()), sum(s.accesses for s in self.sites.values()))

    @property
    def bound(self) -> Literal["flash", "dram"]:
        """Which of the two takes longer in total."""
        return "flash" if self.flash_s.sum() > self.dram_s.sum() else "dram"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
