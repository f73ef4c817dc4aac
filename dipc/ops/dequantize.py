"""`dequantize`: the matrix that the codes of a quantised weight stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc.ops.operator import Operator, Read
from dipc.quantize import BITS, round_to_nearest, unpack


def reference(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, axis: int, dtype: torch.dtype
) -> Tensor:
    """W = (codes - zeros) * scales in float32, then `dtype`; as ONNX's DequantizeLinear with blocks.

    codes uint8 [R, C], or [R, C / 2] of 4 bits, the low half of a byte first; scales float16 and zeros uint8
    [ceil(R / group), C] where `axis` is 0, [R, ceil(C / group)] where it is 1; without zeros 2^(bits - 1) -> [R, C].
    """
    wide = unpack(codes, bits).float()
    rows, columns = wide.shape

    def spread(table: Tensor) -> Tensor:
        return table.float().repeat_interleave(group, axis)[:rows, :columns]

    zero = 2 ** (bits - 1) if zeros is None else spread(zeros)
    return ((wide - zero) * spread(scales)).to(dtype)


def fake(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int, axis: int, dtype: torch.dtype
) -> Tensor:
    """[R, C], from codes of 8 or 4 bits."""
    if bits not in BITS or group < 1 or axis not in (0, 1):
        raise ValueError(f"dequantize: {bits} bits in groups of {group} along dim {axis}")
    if codes.dim() != 2 or codes.dtype != torch.uint8:
        raise ValueError(f"dequantize: codes are {codes.dtype} {tuple(codes.shape)}, not a matrix of uint8")
    shape = [codes.shape[0], codes.shape[1] * (8 // bits)]
    groups = [-(-n // group) if dim == axis else n for dim, n in enumerate(shape)]
    if any(t is not None and list(t.shape) != groups for t in (scales, zeros)):
        given = [tuple(t.shape) for t in (scales, zeros) if t is not None]
        raise ValueError(f"dequantize: scales and zeros {given} where a matrix {shape} has {groups}")
    return torch.empty(shape, dtype=dtype, device=codes.device)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Nothing by itself: the product that takes the matrix says which codes and scales it reads (`weight_read`)."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """A matrix [U + 3, 2 U] in groups of 4, which need not divide it: both widths, both dims, both symmetries."""
    weight = torch.randn(units + 3, 2 * units, generator=generator)
    made = []
    for bits, axis, symmetric in ((4, 0, True), (4, 1, False), (8, 1, True), (8, 0, False)):
        q = round_to_nearest(weight, bits, 4, axis, symmetric)
        made.append((q.codes, q.scales, q.zeros, bits, 4, axis, torch.float32 if symmetric else torch.bfloat16))
    return made


OPERATOR = Operator(
    "dequantize",
    "(Tensor codes, Tensor scales, Tensor? zeros, int bits, int group, int axis, ScalarType dtype) -> Tensor",
    reference,
    fake,
    traffic,
    examples,
)
