"""`dequantize`: the matrix that the codes of a quantised weight stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc.errors import UnsupportedModel
from dipc.ir.codes import BITS, piece_of, round_to_nearest, unpack
from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of


def reference(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, axis: int, dtype: torch.dtype
) -> Tensor:
    """W = (codes - zeros) * scales in float32, then `dtype`; as ONNX's DequantizeLinear with blocks.

    codes uint8 [R, C bits / 8], the lowest bits of a byte first (`dipc.ir.codes.pack`); scales float16 and zeros uint8
    [ceil(R / group), C] where `axis` is 0, [R, ceil(C / group)] where it is 1; without zeros 2^(bits - 1) -> [R, C].
    """
    wide = unpack(codes, bits).float()
    rows, columns = wide.shape

    def spread(table: Tensor) -> Tensor:
        return table.float().repeat_interleave(min(group, wide.shape[axis]), axis)[:rows, :columns]

    zero = 2 ** (bits - 1) if zeros is None else spread(zeros)
    return ((wide - zero) * spread(scales)).to(dtype)


def fake(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, axis: int, dtype: torch.dtype
) -> Tensor:
    """[R, C], from codes of 2, 3, 4 or 8 bits."""
    if bits not in BITS or group < 1 or axis not in (0, 1):
        raise ValueError(f"dequantize: {bits} bits in groups of {group} along dim {axis}")
    if codes.dim() != 2 or codes.dtype != torch.uint8:
        raise ValueError(f"dequantize: codes are {codes.dtype} {tuple(codes.shape)}, not a matrix of uint8")
    if codes.shape[1] % piece_of(bits)[1]:
        raise ValueError(f"dequantize: {codes.shape[1]} bytes of a row hold no whole number of {bits}-bit codes")
    shape = [codes.shape[0], codes.shape[1] * 8 // bits]
    groups = [-(-n // group) if dim == axis else n for dim, n in enumerate(shape)]
    if any(t is not None and list(t.shape) != groups for t in (scales, zeros)):
        given = [tuple(t.shape) for t in (scales, zeros) if t is not None]
        raise ValueError(f"dequantize: scales and zeros {given} where a matrix {shape} has {groups}")
    return torch.empty(shape, dtype=dtype, device=codes.device)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Nothing by itself: the product that takes the matrix says which codes and scales it reads (`weight_read`)."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """A matrix [U + 3, 8 U] in groups of 5, which need not divide it: all widths, both dims, both symmetries."""
    weight = torch.randn(units + 3, 8 * units, generator=generator)
    made = []
    forms = ((2, 0, False), (2, 1, True), (3, 0, True), (3, 1, False))
    for bits, axis, symmetric in (*forms, (4, 0, True), (4, 1, False), (8, 1, True), (8, 0, False)):
        q = round_to_nearest(weight, bits, 5, axis, symmetric)
        made.append((q.codes, q.scales, q.zeros, bits, 5, axis, torch.float32 if symmetric else torch.bfloat16))
    return made


# Codes of 4 bits are UINT4 in an ONNX file, of 8 bits UINT8. Zero points may be one for all, [1, 1].
# The Reshape changes nothing; without it ONNX Runtime would make dequantisation and product one MatMulNBits, which
# rounds activations to 8 bits.
ONNX_STEPS = """
    wide_scales = Cast <to = 1> (scales)
    groups = Shape (scales)
    every_zero = Expand (zeros, groups)
    zero_codes = CastLike (every_zero, {codes})
    widened = DequantizeLinear <axis: int = @axis, block_size: int = @group> ({codes}, wide_scales, zero_codes)
    same_shape = Shape (widened)
    {values} = Reshape (widened, same_shape)
"""

BODY = f"""
Dequantize <bits, group, axis> (codes, scales, zeros) => (w)
{{{ONNX_STEPS.format(codes="codes", values="w")}}}
"""


def to_onnx(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, axis: int, dtype: torch.dtype
) -> Any:
    """`Dequantize`, in float32. UnsupportedModel for codes of 2 and 3 bits, which ONNX Runtime cannot read."""
    if bits not in (4, 8):
        raise UnsupportedModel(f"weights of {bits} bits have no ONNX form; quantise to 4 or 8 bits to export the model")
    shape = (codes.shape[0], codes.shape[1] * (8 // bits))
    attributes: dict[str, int | float | str] = {"bits": bits, "group": group, "axis": axis}
    inputs = (codes, scales, onnx_zeros(zeros, bits))
    return onnx_node("Dequantize", inputs, attributes, (torch.float32, shape)).to(dtype)


def onnx_zeros(zeros: Tensor | None, bits: int) -> Tensor:
    """The zero points, or the middle code for all."""
    return torch.full((1, 1), 2 ** (bits - 1), dtype=torch.uint8) if zeros is None else zeros


OPERATOR = Operator(
    "dequantize",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    onnx=OnnxForm(to_onnx, {"Dequantize": BODY}),
    makes_weight_from="codes",
)
