"""The common part of the packed products in an ONNX file. An operator's name there says how its units are stored.

Without suffix `units` [U, N] are float32, float16 or bfloat16; `Int8` and `Int4` name UINT8 and UINT4 codes, which come
with scales and zero points, and `Int8Minima` and `Int4Minima` those that come with scales and minima. A function body
cannot ask which inputs are there, so each name takes all of its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dipc.ir.onnx_form import onnx_node
from dipc.ops._packed import PackedMatrix
from dipc.ops.dequantize import MINIMA_STEPS, ONNX_STEPS, onnx_zeros

_SUFFIXES = {0: "", 8: "Int8", 4: "Int4"}


def bodies(name: str, result: str, steps: str) -> dict[str, str]:
    """The function of each storage format.

    Args:
        name: of the operator, without suffix.
        result: what it gives.
        steps: from `x`, `mask`, `bias` and the matrix `values` to the result.
    """
    float_values = "\n    values = Cast <to = 1> (units)\n"
    code_values = ONNX_STEPS.format(codes="units", values="values")
    from_minima = MINIMA_STEPS.format(codes="units", values="values")
    steps = steps.strip("\n")
    with_codes = f"<group, axis> (x, mask, units, scales, zeros, bias) => ({result})\n{{{code_values}{steps}\n}}"
    with_minima = f"<group, axis> (x, mask, units, scales, minima, bias) => ({result})\n{{{from_minima}{steps}\n}}"
    with_floats = f"(x, mask, units, bias) => ({result})\n{{{float_values}{steps}\n}}"
    made = {name: f"{name} {with_floats}"}
    for suffix in filter(None, _SUFFIXES.values()):
        made[f"{name}{suffix}"] = f"{name}{suffix} {with_codes}"
        made[f"{name}{suffix}Minima"] = f"{name}{suffix}Minima {with_minima}"
    return made


def node(name: str, x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor, shape: Sequence[int]) -> Tensor:
    """The node of a packed product; `shape` is its result's, of float32."""
    tables: tuple[Tensor, ...] = ()
    attributes: dict[str, int | float | str] = {}
    suffix = _SUFFIXES[matrix.bits]
    if matrix.bits:
        assert matrix.scales is not None
        offsets = onnx_zeros(matrix.zeros, matrix.bits) if matrix.minima is None else matrix.minima
        tables = (matrix.scales, offsets)
        attributes = {"group": matrix.group, "axis": matrix.axis}
        suffix += "" if matrix.minima is None else "Minima"
    inputs = (x, mask, matrix.units, *tables, bias)
    made: Tensor = onnx_node(f"{name}{suffix}", inputs, attributes, (torch.float32, shape))
    return made


def bias_of(bias: Tensor | None, length: int) -> Tensor:
    """The bias, or zeros."""
    return torch.zeros(length) if bias is None else bias
