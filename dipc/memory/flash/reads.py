"""Missed units -> the reads that fetch them, and how long those take.

A unit lies at a place of its site's file; the reads of a token are the stretches of that file that it misses, joined
and rounded out as `Reads` says. A stretch is counted in grains: pages where reads are aligned, else units.

Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes, N reads or parts of reads of all tokens, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dipc.hardware.device import Device
from dipc.hardware.flash_curve import Access
from dipc.memory.flash.options import FlashReadOptions
from dipc.memory.traffic import Site

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Seconds = Callable[[float], float]
"""Bytes of one read -> its time."""

_BLOCK = 2**18
"""Mask entries that are looked at at once: what is made of them stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class SiteReads:
    """The reads from flash for one site, per token."""

    bytes_T: Floats
    reads_T: Ints
    seconds_T: Floats


@dataclass(frozen=True)
class FlashPlacement:
    """Where a site's units lie in flash, and what is read of them together. Two files of one placement read alike."""

    units: int
    piece_bytes: float
    """Bytes of a unit that lie together: all of it, or its part of one matrix."""
    copies: int
    """Files of that form: one, or one for each matrix."""
    page_bytes: int | None
    over_read_bytes: int | None

    @classmethod
    def of(cls, site: Site, reads: FlashReadOptions, device: Device) -> FlashPlacement:
        """The placement of a site on a device."""
        copies = len(site.matrices) if reads.bundling == "matrix" else 1
        page_bytes = reads.page_bytes(device)
        return cls(site.units, site.unit_bytes / copies, copies, page_bytes, reads.over_read_bytes)

    @property
    def separate(self) -> bool:
        """Every missed unit is a read of its own, whatever else is missed."""
        return self.page_bytes is None and self.over_read_bytes is None

    @property
    def grain_bytes(self) -> float:
        """Bytes of a grain."""
        return self.piece_bytes if self.page_bytes is None else float(self.page_bytes)

    def grains(self, units: Ints) -> tuple[Ints, Ints]:
        """The grain that holds the first byte of each unit, and the one after the last byte before it."""
        if self.page_bytes is None:
            return units, units
        pages = units * self.piece_bytes / self.page_bytes
        return np.floor(pages).astype(np.int64), np.ceil(pages).astype(np.int64)


def seconds_per_read(device: Device, reads: FlashReadOptions, access: Access = "random") -> Seconds:
    """The time of one read by its bytes."""
    return lambda size_bytes: size_bytes / device.flash_bandwidth(size_bytes, access, reads.queue_depth)


def full_reads(site: Site, hits: int, reads: FlashReadOptions, device: Device) -> tuple[float, int, float]:
    """Bytes, reads and seconds of a token at a site that is read in full: its missed units are one stretch.

    What is read in full for every token misses the same units each time, and these can lie in order.
    """
    if hits == site.units:
        return 0.0, 0, 0.0
    placement = FlashPlacement.of(site, reads, device)
    begin, end = placement.grains(np.array([hits, site.units]))
    size_bytes = float(end[1] - begin[0]) * placement.grain_bytes
    copies, seconds = placement.copies, seconds_per_read(device, reads, "sequential")
    return copies * size_bytes, copies, copies * seconds(size_bytes)


def selected_reads(
    missed_TB: npt.NDArray[np.uint8], order: Ints | None, placement: FlashPlacement, timings: Sequence[Seconds]
) -> list[SiteReads]:
    """The reads of every token at a site that selects, timed on several devices.

    Args:
        missed_TB: uint8 [T, B], the missed units, packed as in a trace.
        order: int64 [U], the unit at each place of the file; None: as numbered.
        placement: of the site.
        timings: the time of one read, for each device.
    """
    tokens = len(missed_TB)
    grains_T, reads_T = np.zeros((2, tokens), dtype=np.int64)
    seconds_T = np.zeros((len(timings), tokens))
    block = max(1, _BLOCK // (placement.units + 1))
    for start in range(0, tokens, block):
        rows = slice(start, start + block)
        missed_TU = np.unpackbits(missed_TB[rows], axis=1, count=placement.units)
        token_N, grains_N = _reads(missed_TU if order is None else missed_TU[:, order], placement)
        count = len(missed_TU)
        reads_T[rows] = np.bincount(token_N, minlength=count)
        grains_T[rows] = np.bincount(token_N, weights=grains_N, minlength=count)
        lengths = np.flatnonzero(np.bincount(grains_N))
        for number, seconds in enumerate(timings):
            by_length = np.zeros(int(lengths[-1]) + 1 if len(lengths) else 1)
            by_length[lengths] = [seconds(int(length) * placement.grain_bytes) for length in lengths]
            seconds_T[number, rows] = np.bincount(token_N, weights=by_length[grains_N], minlength=count)
    copies = placement.copies
    bytes_T = copies * grains_T.astype(np.float64) * placement.grain_bytes
    return [SiteReads(bytes_T, copies * reads_T, copies * seconds) for seconds in seconds_T]


def separate_reads(missed_T: Ints, placement: FlashPlacement, seconds: Seconds) -> SiteReads:
    """As `selected_reads`, where each missed unit is a read of its own: only their number matters."""
    reads_T, piece_bytes = missed_T * placement.copies, placement.piece_bytes
    counts_T = reads_T.astype(np.float64)
    return SiteReads(counts_T * piece_bytes, reads_T, counts_T * seconds(piece_bytes))


def _reads(missed_TU: npt.NDArray[np.uint8], placement: FlashPlacement) -> tuple[Ints, Ints]:
    """The token [N] and the length in grains [N] of every read."""
    token_N, first_N, stop_N = _stretches(missed_TU, joined=placement.over_read_bytes is not None)
    begin, end = placement.grains(np.arange(placement.units + 1))
    begin_N, end_N = begin[first_N], end[stop_N]
    apart = np.ones(len(token_N) + 1, dtype=np.bool_)  # whether something new begins at each stretch, and after all
    apart[1:-1] = (begin_N[1:] - end_N[:-1] > _most_gap(placement)) | (token_N[1:] != token_N[:-1])
    return token_N[apart[:-1]], end_N[apart[1:]] - begin_N[apart[:-1]]


def _most_gap(placement: FlashPlacement) -> int:
    """Grains between two stretches that are still one read; those that share a page, -1 apart, always are."""
    if placement.over_read_bytes is None:
        return -1
    return int(placement.over_read_bytes // placement.grain_bytes)


def _stretches(missed_TU: npt.NDArray[np.uint8], joined: bool) -> tuple[Ints, Ints, Ints]:
    """Token, first unit and the unit after the last of every missed unit, or of every run of them, each [N]."""
    tokens, units = missed_TU.shape
    width = units + 1  # a unit that is never missed ends each row, so that no run goes over into the next token
    flat = np.zeros(1 + tokens * width, dtype=np.uint8)
    flat[1:].reshape(tokens, width)[:, :units] = missed_TU
    if joined:
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        first, stop = edges[0::2], edges[1::2]
    else:
        first = np.flatnonzero(flat[1:])
        stop = first + 1
    rows = np.arange(tokens) * width
    counts = np.diff(np.searchsorted(first, rows), append=len(first))
    token_N, row_N = np.repeat(np.arange(tokens), counts), np.repeat(rows, counts)
    return token_N, first - row_N, stop - row_N
