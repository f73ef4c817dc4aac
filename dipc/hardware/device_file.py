"""The schema of a device file: which keys it has and what each may hold (hwmodels/README.md explains them)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dipc.errors import UsageError
from dipc.hardware.device import Device, Dram, Energy
from dipc.hardware.doubts import doubts
from dipc.hardware.figure_file import read_figure
from dipc.hardware.flash_file import read_flash
from dipc.hardware.strict_yaml import Entry, Reader
from dipc.quantities import format_bytes, parse_bandwidth, parse_bytes, parse_energy


class DeviceFile(NamedTuple):
    """A device file as it was read."""

    device: Device | None
    """None where there are problems."""
    problems: list[str]
    """One line each, in the order of the file."""
    doubts: list[str]
    """Likewise: figures that are right by themselves and can hardly be meant. None of them keeps a file from use."""


def read_device(path: str) -> DeviceFile:
    """The device in the file at `path`, and what is wrong or doubtful in it.

    Raises UsageError if there is no such file.
    """
    reader = Reader(path)
    root = reader.compose()
    device = None if root is None else _device(reader, root)
    problems = reader.problems()
    if device is None or problems:
        return DeviceFile(None, problems, [])
    for key, what in doubts(device):
        reader.doubt(key, what)
    return DeviceFile(device, problems, reader.doubts())


def _device(reader: Reader, root: Entry) -> Device | None:
    part = reader.mapping(root, ("name", "description", "dram", "flash", "overlap"), optional=("energy",))
    name = _name(reader, part.get("name"))
    description = reader.text(part.get("description"))
    dram = _dram(reader, part.get("dram"))
    flash = read_flash(reader, part.get("flash"))
    overlapped = read_figure(reader, part.get("overlap"), _parse_bool)
    energy = _energy(reader, part.get("energy"))
    if name is None or description is None or dram is None or flash is None or overlapped is None:
        return None
    return Device(name, description, dram, flash, overlapped, energy)


def _name(reader: Reader, entry: Entry | None) -> str | None:
    name, stem = reader.text(entry), Path(reader.path).stem
    if entry is not None and name is not None and name != stem:
        reader.report(entry.line, entry.key, f'"{name}" is not the file\'s name; write "{stem}" or rename the file')
    return name


def _dram(reader: Reader, entry: Entry | None) -> Dram | None:
    if entry is None:
        return None
    part = reader.mapping(entry, ("capacity", "available", "bandwidth"))
    capacity = read_figure(reader, part.get("capacity"), parse_bytes)
    available = read_figure(reader, part.get("available"), parse_bytes)
    bandwidth = read_figure(reader, part.get("bandwidth"), parse_bandwidth)
    if capacity is not None and available is not None and available.value > capacity.value:
        reader.report(
            part["available"].line,
            part["available"].key,
            f"{format_bytes(available.value)} is more than the capacity, {format_bytes(capacity.value)}",
        )
    if capacity is None or available is None or bandwidth is None:
        return None
    return Dram(capacity, available, bandwidth)


def _energy(reader: Reader, entry: Entry | None) -> Energy | None:
    if entry is None:
        return None
    part = reader.mapping(entry, ("dram", "flash"))
    dram = read_figure(reader, part.get("dram"), parse_energy)
    flash = read_figure(reader, part.get("flash"), parse_energy)
    return None if dram is None or flash is None else Energy(dram, flash)


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f'"{text}" is neither true nor false')
    return text == "true"
