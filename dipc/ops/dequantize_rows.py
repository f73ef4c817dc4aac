"""`dequantize_rows`: rows of the matrix that codes stand for, by index, as an embedding table's are looked up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc.ir.codes import CodeFormat, piece_of, round_to_nearest
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import Operator, Read, argument, quantized_read
from dipc.ir.signature import schema_of
from dipc.ops import dequantize


def reference(
    indices: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """W[indices] with W as `dequantize` makes it of groups along the rows. indices int [...] -> [..., C]."""
    chosen = indices.reshape(-1)
    zeros, minima = (None if t is None else t[chosen] for t in (zeros, minima))
    rows = dequantize.reference(codes[chosen], scales[chosen], zeros, bits, group, 1, dtype, minima)
    return rows.reshape(*indices.shape, rows.shape[-1])


def fake(
    indices: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """[...] -> [..., C]."""
    if indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"dequantize_rows: indices are {indices.dtype}")
    matrix = dequantize.fake(codes, scales, zeros, bits, group, 1, dtype, minima)
    return matrix.new_empty(*indices.shape, matrix.shape[1])


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The table, as ATen's lookup has it; of a table that nothing else reads a token reads next to nothing."""
    return (quantized_read(node, argument(node, "codes"), "all", None, along_unit=True),)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """A table [U + 3, 8 U] in groups of 5, looked up for [1, T] tokens: with zeros, without, and with minima."""
    table = torch.randn(units + 3, 8 * units, generator=generator)
    indices = torch.randint(units + 3, (1, tokens), generator=generator)
    made: list[tuple[Any, ...]] = []
    for bits, symmetric in ((8, True), (4, False), (6, True)):
        q = round_to_nearest(table, bits, 5, 1, symmetric)
        made.append((indices, q.codes, q.scales, q.zeros, bits, 5, torch.float32))
    q = dequantize.with_minima(generator, (units + 3, 8 * units), CodeFormat(5, 5, 1), torch.float16)
    return [*made, (indices, q.codes, q.scales, None, 5, 5, torch.bfloat16, q.minima)]


def to_onnx(
    indices: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """The same in operations on whole numbers that every runtime has; codes may lie in blocks, uint8 [R, G, bytes]."""
    chosen = indices.reshape(-1)
    taken = codes[chosen].flatten(1).long()
    count, size = piece_of(bits)
    word = sum((taken[:, j::size] * 256**j for j in range(1, size)), taken[:, 0::size])
    wide = torch.stack([word // 2 ** (bits * i) % 2**bits for i in range(count)], -1).flatten(1).float()
    owners = torch.arange(wide.shape[1]) // group

    def spread(table: Tensor) -> Tensor:
        return table[chosen].float()[:, owners]

    if minima is not None:
        rows = wide * spread(scales) + spread(minima)
    else:
        rows = (wide - (2 ** (bits - 1) if zeros is None else spread(zeros))) * spread(scales)
    return rows.to(dtype).reshape(*indices.shape, wide.shape[1])


OPERATOR = Operator(
    "dequantize_rows",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    onnx=OnnxForm(to_onnx),
)
