"""`int8`: weights of 8 bits with a scale per group, rounded to the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.pipeline.quantization_pass import QuantizingPass


@dataclass(frozen=True)
class Int8(QuantizingPass):
    """Round the weights of linear layers to 8 bits: 8.25 bits per weight with the 16-bit scales of groups of 64.

    A tied embedding table is stored twice, as with `int4`: lookups keep it at its width, and the head gets codes.
    """

    bits: ClassVar[int] = 8
    tolerance: ClassVar[float] = 0.05
