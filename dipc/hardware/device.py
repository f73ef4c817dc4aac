"""Devices: how much DRAM there is for the model, how fast DRAM and flash read, and where each figure comes from.

The figures come from one YAML file per device (hwmodels/README.md); `load_device` finds it by name or path.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dipc.errors import BadFile, UnknownName, UsageError
from dipc.hardware.figure import Figure, Kind
from dipc.hardware.flash_curve import Access, Flash, FlashPoint
from dipc.quantities import format_bandwidth, format_bytes, format_chunk, format_energy, parse_bandwidth, parse_bytes

__all__ = [
    "Access",
    "Assumption",
    "Device",
    "Dram",
    "Energy",
    "Figure",
    "Flash",
    "FlashPoint",
    "Kind",
    "device_for",
    "device_names",
    "device_path",
    "load_device",
    "register_device_file",
    "validate_device",
]

_BUILT_IN = Path(__file__).parents[1] / "hwmodels"
_GIVEN_BY_USER = "given by the user"

extra_device_files: dict[str, Path] = {}
"""Device files that plug-ins have registered, by name; `register_device_file` fills it."""


@dataclass(frozen=True)
class Dram:
    """DRAM: `capacity` and the part `available` to the model in bytes, `bandwidth` in bytes per second."""

    capacity: Figure[int]
    available: Figure[int]
    bandwidth: Figure[float]


@dataclass(frozen=True)
class Energy:
    """Energy in joules of reading one byte from DRAM, and one from flash."""

    dram: Figure[float]
    flash: Figure[float]


class Assumption(NamedTuple):
    """One figure of a device as a report prints it."""

    key: str
    value: str
    kind: Kind
    source: str


@dataclass(frozen=True)
class Device:
    """A device that runs a model from DRAM and flash; `name` is the name of its file."""

    name: str
    description: str
    dram: Dram
    flash: Flash
    overlapped: Figure[bool]
    energy: Energy | None = None
    """None where no source gives it."""

    @property
    def dram_available(self) -> int:
        """DRAM for the model, in bytes."""
        return self.dram.available.value

    @property
    def dram_bandwidth(self) -> float:
        """DRAM read bandwidth in bytes per second."""
        return self.dram.bandwidth.value

    @property
    def overlap(self) -> bool:
        """Whether flash and DRAM transfers overlap: latency is then the greater of their times, else the sum."""
        return self.overlapped.value

    def flash_bandwidth(self, chunk_bytes: float, access: Access = "random", queue_depth: int | None = None) -> float:
        """Flash read bandwidth in bytes per second, as `Flash.bandwidth` has it."""
        return self.flash.bandwidth(chunk_bytes, access, queue_depth)

    def assumptions(self) -> list[Assumption]:
        """Every figure with its kind and source, for the report."""
        rows = [
            _assumption("dram.capacity", format_bytes(self.dram.capacity.value), self.dram.capacity),
            _assumption("dram.available", format_bytes(self.dram.available.value), self.dram.available),
            _assumption("dram.bandwidth", format_bandwidth(self.dram.bandwidth.value), self.dram.bandwidth),
        ]
        rows += [
            _assumption(
                _point_key(point, len(self.flash.curve)), format_bandwidth(point.bandwidth.value), point.bandwidth
            )
            for point in self.flash.curve
        ]
        if self.flash.page is not None:
            rows.append(_assumption("flash.page", format_chunk(self.flash.page.value), self.flash.page))
        if self.energy is not None:
            for key, figure in (("dram", self.energy.dram), ("flash", self.energy.flash)):
                rows.append(_assumption(f"energy.{key}", format_energy(figure.value), figure))
        rows.append(_assumption("overlap", "yes" if self.overlap else "no", self.overlapped))
        return rows

    def with_dram_available(self, size_bytes: int) -> Device:
        """The same device with `size_bytes` bytes of DRAM for the model.

        Raises UsageError unless it is positive and at most the device's capacity.
        """
        capacity = self.dram.capacity.value
        if size_bytes <= 0:
            raise UsageError(f"the available DRAM must be greater than zero, not {size_bytes} bytes")
        if size_bytes > capacity:
            raise UsageError(f"{self.name} has {format_bytes(capacity)} of DRAM, not {format_bytes(size_bytes)}")
        available: Figure[int] = Figure(size_bytes, _GIVEN_BY_USER, "assumed")
        return dataclasses.replace(self, dram=dataclasses.replace(self.dram, available=available))

    def with_flash_bandwidth(self, bandwidth_bytes_per_s: float) -> Device:
        """The same device with one flash bandwidth, in bytes per second, for every chunk size.

        Raises UsageError unless it is positive.
        """
        if not 0 < bandwidth_bytes_per_s < math.inf:
            raise UsageError(f"the flash bandwidth must be greater than zero, not {bandwidth_bytes_per_s} bytes/s")
        bandwidth = Figure(float(bandwidth_bytes_per_s), _GIVEN_BY_USER, "assumed")
        return dataclasses.replace(self, flash=Flash((FlashPoint(1, bandwidth),), self.flash.page))


def load_device(name_or_path: str | Path) -> Device:
    """The device of that name, or the one in that file (a path, or text that ends in .yaml or has a separator).

    Raises UnknownName, UsageError if there is no such file, and BadFile naming line and key of its first problem.
    """
    from dipc.hardware.device_file import read_device

    path = str(name_or_path) if _is_path(name_or_path) else str(device_path(str(name_or_path)))
    device, problems = read_device(path)
    if device is None:
        raise BadFile(problems[0])
    return device


def device_for(hardware: str | Path | Device, dram: str | None, flash: str | None, model_bytes: float) -> Device:
    """A device as a user asks for it.

    Args:
        hardware: name, file, or the device itself.
        dram: DRAM for the model, "4 GB", or a share of the model, "50%"; by default as the device's file says.
        flash: flash bandwidth, "1 GB/s", instead of the file's.
        model_bytes: what a share is of.

    Raises UsageError for a quantity that cannot be read or is not there, and what `load_device` raises.
    """
    device = hardware if isinstance(hardware, Device) else load_device(hardware)
    if dram is not None:
        device = device.with_dram_available(_share_of(dram, model_bytes) if "%" in dram else parse_bytes(dram))
    return device if flash is None else device.with_flash_bandwidth(parse_bandwidth(flash))


def _share_of(text: str, model_bytes: float) -> int:
    number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if number is None or float(number[1]) == 0:
        raise UsageError(f'{text!r} is no amount of DRAM; write a size such as "4 GB" or a share of the model, 50%')
    return round(float(number[1]) / 100 * model_bytes)


def validate_device(path: str | Path) -> list[str]:
    """Every problem of a device file, one line each in the order of the file; empty if it is right.

    Raises UsageError if there is no such file.
    """
    from dipc.hardware.device_file import read_device

    return read_device(str(path))[1]


def device_names() -> list[str]:
    """Names of the built-in devices and of those that plug-ins registered, sorted."""
    _load_plugins()
    return sorted(_device_files())


def device_path(name: str) -> Path:
    """The file of the device called `name`. Raises UnknownName."""
    if name not in _device_files():
        _load_plugins()
    files = _device_files()
    if name not in files:
        raise UnknownName("device", name, files)
    return files[name]


def register_device_file(path: str | Path) -> None:
    """Make a plug-in's device file known by its file name; the same file may be registered twice.

    Raises UsageError if it is no .yaml file that exists, BadFile if another device has its name.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a device file is named NAME.yaml")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    known = _device_files().get(path.stem)
    if known is not None and known.resolve() != path.resolve():
        raise BadFile(f"{path}: a device named {path.stem!r} exists already: {known}; rename one of the files")
    extra_device_files[path.stem] = path


def _load_plugins() -> None:
    """Installed plug-ins may bring devices; they are loaded only when a name is not a built-in device's."""
    from dipc.registry import load_installed_plugins

    load_installed_plugins()


def _device_files() -> dict[str, Path]:
    built_in = {path.stem: path for path in sorted(_BUILT_IN.glob("*.yaml"))}
    return {**extra_device_files, **built_in}


def _is_path(name_or_path: str | Path) -> bool:
    text = str(name_or_path)
    separators = {os.sep, "/", os.altsep or os.sep}
    return (
        isinstance(name_or_path, Path)
        or text.endswith((".yaml", ".yml"))
        or any(separator in text for separator in separators)
    )


def _point_key(point: FlashPoint, points: int) -> str:
    parts = [
        "" if points == 1 else f" @ {format_chunk(point.chunk_bytes)}",
        "" if point.access is None else f" {point.access}",
        "" if point.queue_depth is None else f" QD{point.queue_depth}",
    ]
    return "flash.bandwidth" + "".join(parts)


def _assumption(key: str, value: str, figure: Figure[int] | Figure[float] | Figure[bool]) -> Assumption:
    return Assumption(key, value, figure.kind, figure.source)
