"""`int4`: weights of 4 bits with a scale per group, rounded to the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.pipeline.quantization_pass import QuantizingPass


@dataclass(frozen=True)
class Int4(QuantizingPass):
    """Round the weights of linear layers to 4 bits: 4.25 bits per weight with the 16-bit scales of groups of 64.

    Symmetric groups of 64 are the paper's sizes. Along the outputs a column of an MLP, which is what DIP keeps or
    leaves, brings its own scales, so a unit is one read. A tied embedding table is stored twice: lookups keep it at its
    width, since a token reads one row, and the head, of which it reads all, gets codes.
    """

    bits: ClassVar[int] = 4
    tolerance: ClassVar[float] = 0.5
