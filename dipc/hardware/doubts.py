"""Doubts about a device: figures that can be read and that no device has, such as DRAM slower than flash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dipc.hardware.device import Device, Energy
from dipc.hardware.flash_curve import FlashPoint
from dipc.quantities import format_bandwidth, format_bytes, format_chunk, format_energy, number

_DRAM_BYTES = (1e6, 1e14)
_DRAM_BYTES_PER_S = (1e6, 1e15)
_PAGE_BYTES_AT_MOST = 2**26
_SHORT_READ_BYTES = 4096
_READ_SECONDS_AT_MOST = 1.0
_JOULES_PER_BYTE = (1e-15, 1e-4)


class Doubt(NamedTuple):
    """Figures that can hardly be meant, in words, and the dotted key of the figure in a device file."""

    key: str
    what: str


def doubts(device: Device) -> list[Doubt]:
    """Everything about the device that can hardly be meant, in the order of a device file."""
    return [*_of_dram(device), *_of_flash(device), *(() if device.energy is None else _of_energy(device.energy))]


def _of_dram(device: Device) -> Iterator[Doubt]:
    dram = device.dram
    for key, size_bytes in (("capacity", dram.capacity.value), ("available", dram.available.value)):
        if not _DRAM_BYTES[0] <= size_bytes <= _DRAM_BYTES[1]:
            yield Doubt(f"dram.{key}", f"{format_bytes(size_bytes)} is no size that DRAM has; check its unit")
    rate, flash = dram.bandwidth.value, max(point.bandwidth.value for point in device.flash.curve)
    if not _DRAM_BYTES_PER_S[0] <= rate <= _DRAM_BYTES_PER_S[1]:
        yield Doubt("dram.bandwidth", f"{format_bandwidth(rate)} is no rate that DRAM has; check its unit")
    elif rate < flash:
        slower = f"{format_bandwidth(rate)} is slower than the flash, {format_bandwidth(flash)}"
        yield Doubt("dram.bandwidth", f"{slower}; check both, and their units")


def _of_flash(device: Device) -> Iterator[Doubt]:
    curve, page = device.flash.curve, device.flash.page
    for index, point in enumerate(curve):
        key = "flash.bandwidth" if len(curve) == 1 else f"flash.bandwidth[{index}].bandwidth"
        yield from (Doubt(key, what) for what in _of_read(point))
    if page is not None and page.value > _PAGE_BYTES_AT_MOST:
        yield Doubt("flash.page", f"{format_chunk(page.value)} is no size that a page has; check its unit")


def _of_read(point: FlashPoint) -> Iterator[str]:
    size_bytes = max(point.chunk_bytes, _SHORT_READ_BYTES)
    seconds = size_bytes / point.bandwidth.value
    if seconds > _READ_SECONDS_AT_MOST and size_bytes < _PAGE_BYTES_AT_MOST:
        rate = format_bandwidth(point.bandwidth.value)
        yield f"at {rate} a read of {format_chunk(size_bytes)} takes {number(seconds)} s; check the unit"


def _of_energy(energy: Energy) -> Iterator[Doubt]:
    dram, flash = energy.dram.value, energy.flash.value
    for key, joules in (("dram", dram), ("flash", flash)):
        if not _JOULES_PER_BYTE[0] <= joules <= _JOULES_PER_BYTE[1]:
            yield Doubt(f"energy.{key}", f"{format_energy(joules)} is no energy that a read takes; check its unit")
    if flash < dram:
        less = f"{format_energy(flash)} is less than of DRAM, {format_energy(dram)}"
        yield Doubt("energy.flash", f"{less}; check both, and their units")
