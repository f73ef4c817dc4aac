"""Devices: how much DRAM there is for the model, how fast DRAM and flash read, and where each figure comes from.

The figures come from one YAML file per device (hwmodels/README.md); `find` has it by name or path.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

from dipc.errors import UsageError
from dipc.hardware.figure import Figure, Kind
from dipc.hardware.flash_curve import Access, Flash, FlashPoint
from dipc.quantities import format_bandwidth, format_bytes, format_chunk, format_energy

_GIVEN_BY_USER = "given by the user"


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
        """Return whether flash and DRAM transfers overlap: latency is then the greater of their times, else the sum."""
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


def _point_key(point: FlashPoint, points: int) -> str:
    parts = [
        "" if points == 1 else f" @ {format_chunk(point.chunk_bytes)}",
        "" if point.access is None else f" {point.access}",
        "" if point.queue_depth is None else f" QD{point.queue_depth}",
    ]
    return "flash.bandwidth" + "".join(parts)


def _assumption(key: str, value: str, figure: Figure[int] | Figure[float] | Figure[bool]) -> Assumption:
    return Assumption(key, value, figure.kind, figure.source)
