"""Devices as their files describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.quantities import format_bandwidth, format_bytes
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.hardware.device import Device


_LONG, _SHORT = 2**30, 4096  # bytes of a read


def devices_dict(devices: Iterable[tuple[Device, str]]) -> JsonObject:
    """All devices, each with its file."""
    return document("devices", devices=[_device(device, file) for device, file in devices])


def device_dict(device: Device, file: str) -> JsonObject:
    """One device with every figure, its kind and its source."""
    return document("device", **_device(device, file))


def _device(device: Device, file: str) -> JsonObject:
    return {
        "name": device.name,
        "description": device.description,
        "file": file,
        "dram_capacity_bytes": device.dram.capacity.value,
        "dram_available_bytes": device.dram_available,
        "dram_bytes_per_s": device.dram_bandwidth,
        "flash": [
            {
                "chunk_bytes": p.chunk_bytes,
                "bytes_per_s": p.bandwidth.value,
                "access": p.access,
                "queue_depth": p.queue_depth,
            }
            for p in device.flash.curve
        ],
        "page_bytes": None if device.flash.page is None else device.flash.page.value,
        "overlap": device.overlap,
        "joules_per_byte": None
        if device.energy is None
        else {"dram": device.energy.dram.value, "flash": device.energy.flash.value},
        "figures": [a._asdict() for a in device.assumptions()],
    }


def devices_table(devices: Iterable[tuple[Device, str]]) -> list[RenderableType]:
    """A row per device; its flash in long sequential reads and in short random ones, as many under way as it has."""
    rows = [
        (
            device.name,
            format_bytes(device.dram_available),
            format_bandwidth(device.dram_bandwidth),
            format_bandwidth(device.flash_bandwidth(_LONG, "sequential")),
            format_bandwidth(device.flash_bandwidth(_SHORT)),
            device.description,
        )
        for device, _ in devices
    ]
    return stack(table("", ("device", ">DRAM", ">DRAM reads", ">flash", ">4 KiB, random", "description"), rows))


def device_tables(device: Device, file: str) -> list[RenderableType]:
    """One device: what it is, and where each figure comes from."""
    rows = [tuple(a) for a in device.assumptions()]
    return stack(
        facts(device.name, [("is", device.description), ("file", file)]),
        table("figures", ("figure", "value", "kind", "source"), rows),
    )
