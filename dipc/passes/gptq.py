"""`gptq`: weights of 4, 3 or 2 bits, each rounding's error made good by the weights that are rounded after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dipc.errors import UsageError
from dipc.ir.codes import CodeFormat, QuantizedTensor
from dipc.ir.program import Program
from dipc.ops.dequantize import reference as dequantized
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.quantization_pass import QuantizingPass
from dipc.tuning.solvers.gptq import gptq
from dipc.tuning.solvers.sequential import solve_sequentially, tokens_for

WIDTHS = (4, 3, 2)


@dataclass(frozen=True)
class Gptq(QuantizingPass):
    """Quantise the weights of linear layers by GPTQ (Frantar et al. 2022), on a calibration's text; before a method.

    Each matrix is solved on what it reads once those before it are rounded. Sizes are those of `int4`, and as there the
    dense program that results are compared with is quantised too.

    Attributes:
        bits: of a weight: 4, 3 or 2, and the scales beside it.
        act_order: round first what the largest inputs meet.
        calibration: the file that `dipc calibrate` wrote for this model, of which the tokens are taken.
    """

    tolerance: ClassVar[float] = 0.5
    bits: int = 4
    act_order: bool = False
    calibration: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in WIDTHS:
            raise UsageError(f"{self.name}: bits={self.bits}: choose one of {', '.join(map(str, WIDTHS))}")

    def exact(self) -> Pass:
        """The width whose rounding the tolerance is for."""
        return dataclasses.replace(self, bits=4)

    def quantized(
        self, programs: Sequence[Program], weights: Mapping[str, Tensor], axes: Mapping[str, int]
    ) -> dict[str, QuantizedTensor]:
        """Codes by GPTQ; of a program from a config alone their shapes."""
        if self.calibration is None and not programs[0].info.has_weights:
            return super().quantized(programs, weights, axes)
        windows = tokens_for(self, self.calibration, programs[0])
        made: dict[str, QuantizedTensor] = {}

        def solve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
            if name not in made:
                form = CodeFormat(self.bits, self.group, axes[name], self.symmetric)
                made[name] = gptq(weight, hessian(), form, act_order=self.act_order)
            q = made[name]
            return dequantized(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32)

        for program in programs:
            solve_sequentially(program, windows, weights, solve)
        return made
