"""`packed_row_linear`: `row_linear` of a unit-major matrix in any format, of which only the kept units are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import Operator, Read
from dipc.ops import _packed as packed
from dipc.ops import _packed_onnx as packed_onnx
from dipc.ops._packed import PackedMatrix


def reference(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """y_u = W_u x + b_u for kept units u, else 0, in float32. x [..., N], mask bool[..., U], W [U, N] -> y [..., U].

    `packed.PackedMatrix` says how W is stored.
    """
    y = matrix.times(x, rows=True)
    return torch.where(mask, y if bias is None else y + bias, 0).to(x.dtype)


def kernel(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """The native product where it covers the case, else the reference."""
    y = packed.call_native(native.row_linear, x, mask, matrix, bias)
    return reference(x, mask, matrix, bias) if y is None else y


def fake(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """[..., N] -> [..., U]."""
    count, length = matrix.shape
    packed.check_fit(x, mask, matrix, length, (bias, count))
    return x.new_empty(mask.shape)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The kept units."""
    return packed.read_of(node)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """U units of about U + 3 values, in every format; all units kept, and none."""
    length = packed.even(units + 3)
    x = torch.randn(1, tokens, length, generator=generator)
    mask = torch.rand(1, tokens, units, generator=generator) < 0.5
    bias = torch.randn(units, generator=generator)
    matrices = packed.example_matrices(generator, units, length)
    odd = torch.randn(units, length - 1, generator=generator)
    coded = packed.example_minima(generator, units, length)
    return [
        *((x, mask, *m.tensors, b, *m.format) for m in matrices for b in (None, bias)),
        *((x, mask, *m.tensors, bias, *m.format, m.minima) for m in coded),
        (x[..., 1:].bfloat16(), mask, odd.bfloat16()),
        (x[..., 1:], torch.ones_like(mask), odd),
        (x[..., 1:], torch.zeros_like(mask), odd),
    ]


STEPS = """
    nothing = Constant <value_float = 0.0> ()
    columns = Transpose <perm = [1, 0]> (values)
    product = MatMul (x, columns)
    all = Add (product, bias)
    y = Where (mask, all, nothing)
"""


def to_onnx(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """`PackedRowLinear`, with the suffix of the format."""
    bias = packed_onnx.bias_of(bias, matrix.shape[0])
    return packed_onnx.node("PackedRowLinear", x, mask, matrix, bias, mask.shape)


OPERATOR = Operator(
    "packed_row_linear",
    packed.schema(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, packed_onnx.bodies("PackedRowLinear", "y", STEPS)),
    tolerance=packed.TOLERANCE,
)
