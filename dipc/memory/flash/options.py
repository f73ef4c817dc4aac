"""The options of reading missed weights from flash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.options import Flag, Options
from dipc.quantities import format_chunk, parse_bytes

Bundling = Literal["unit", "matrix"]
Layout = Literal["file", "popularity", "co-activation"]


def gap_bytes(text: str) -> int:
    """Return a size such as "8 KiB" in bytes; "0 B" is one here."""
    return 0 if text.strip() in ("0", "0 B") else parse_bytes(text)


@dataclass(frozen=True)
class FlashReadOptions(Options):
    """How missed units become reads; by default each is one read, rounded out to the device's pages if it has any.

    Raises:
        UsageError: an option has no such value, or has no effect without another.
    """

    bundling: Annotated[
        Bundling, Flag("What lies together in flash: all of a unit, or each matrix.", metavar="NAME")
    ] = "unit"
    """`unit`: what one mask decides (columns of up and gate) lies together; `matrix`: each matrix by itself."""
    layout: Annotated[Layout, Flag("Order of units in flash: file, popularity or co-activation.", metavar="NAME")] = (
        "file"
    )
    """The order of a site's units in flash: as in the model, by popularity, or often read together side by side."""
    over_read_bytes: Annotated[
        int | None,
        Flag(
            'Join reads that are at most this far apart; "0 B": neighbours.',
            metavar="SIZE",
            name="--over-read",
            parse=gap_bytes,
        ),
    ] = None
    """Join reads that are at most this far apart, and read the gap; 0 joins neighbours; None joins none."""
    align: Annotated[bool | None, Flag("Read whole pages; by default if the device has pages.")] = None
    """Round every read out to the device's pages; by default where its file gives a page."""
    queue_depth: Annotated[
        int | None, Flag("Reads under way at once; by default the device's most.", metavar="N", min=1)
    ] = None
    """Reads under way at once; by default the greatest that the device's file has figures for."""
    overlap: Annotated[bool | None, Flag("Flash and DRAM at the same time; by default as the device.")] = None
    """True reads flash and DRAM at the same time; by default as the device's file says."""

    def __post_init__(self) -> None:
        for option, value, known in (("bundling", self.bundling, Bundling), ("layout", self.layout, Layout)):
            if value not in get_args(known):
                raise UsageError(f"{option}={value}: no such {option}; write one of {', '.join(get_args(known))}")
        if self.over_read_bytes is not None and self.over_read_bytes < 0:
            raise UsageError(f"over_read is {self.over_read_bytes} bytes; give 0 B or more")
        if self.queue_depth is not None and self.queue_depth < 1:
            raise UsageError(f"queue_depth is {self.queue_depth}; give at least 1")
        if self.layout != "file" and self.over_read_bytes is None:
            raise UsageError(f'layout={self.layout} brings units together; give over_read too ("0 B" joins neighbours)')

    def page_bytes(self, device: Device) -> int | None:
        """The page that reads are rounded out to, in bytes; None where they are not.

        Raises:
            UsageError: reads are to be aligned and the device's file gives no page.
        """
        page = device.flash.page
        if self.align and page is None:
            raise UsageError(f"align: the file of {device.name} gives no flash.page to align reads to")
        return None if page is None or self.align is False else page.value

    def check(self, device: Device) -> None:
        """UsageError where the device's file has no figures for what is asked."""
        self.page_bytes(device)
        if self.queue_depth is not None and not device.flash.queue_depths():
            raise UsageError(f"queue_depth={self.queue_depth}: the file of {device.name} has no figures by queue depth")

    def described(self, device: Device) -> str:
        """One line for a report: what a read is, on this device."""
        page, over = self.page_bytes(device), self.over_read_bytes
        depths = device.flash.queue_depths()
        parts = [
            "each missed unit" if self.bundling == "unit" else "each matrix of a missed unit",
            "alone"
            if over is None
            else f"with what is at most {format_chunk(over)} away"
            if over
            else "with neighbours",
            f"{self.layout} layout",
            "any bytes" if page is None else f"pages of {format_chunk(page)}",
            *([f"queue depth {self.queue_depth or depths[-1]}"] if depths else []),
        ]
        return ", ".join(parts)
