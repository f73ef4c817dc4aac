"""The memory that a program is priced with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dipc.options import Flag, Options


@dataclass(frozen=True)
class MemoryBudget(Options):
    """The part of a device's memory that a program gets, and what it keeps there."""

    dram: Annotated[
        str | None, Flag('DRAM for the model: "4 GB", or "50%" of the dense model at its stored width.', metavar="SIZE")
    ] = None
    """A size, or a share of the dense model at its stored width; by default as the device's file says."""
    flash: Annotated[str | None, Flag('Flash bandwidth, such as "1 GB/s", instead of the file\'s.', metavar="RATE")] = (
        None
    )
    """Bandwidth of reads of any size; by default as the device's file says."""
    policy: Annotated[str | None, Flag("Eviction policy; by default the program's, else lfu.", metavar="NAME")] = None
    """By default that of the program's cache-aware selection, else `lfu`."""
    context: Annotated[
        int | None, Flag("Positions of KV cache; by default the context, at most 2048.", metavar="N", min=0)
    ] = None
    """Positions of KV cache in DRAM; by default the model's context, at most 2,048. The paper counts none."""
    bits_per_weight: Annotated[
        float | None, Flag("Width of a stored weight with its scales (INT4: 4.25).", metavar="X")
    ] = None
    """By default the checkpoint's. Weights that a pass quantised are priced by the bytes that they have."""
