"""`packed_gather_linear`: `gather_linear` from a unit-major matrix, of which only the kept units are read."""

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
    """y = b + the sum of x_i W_i over kept units i, in float32. x [..., U], mask bool[..., U], W [U, N] -> y [..., N].

    `packed.PackedMatrix` says how W is stored.
    """
    y = matrix.times(torch.where(mask, x, 0))
    return (y if bias is None else y + bias).to(x.dtype)


def kernel(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """The native product where it covers the case, else the reference."""
    y = packed.call_native(native.gather_linear, x, mask, matrix, bias)
    return reference(x, mask, matrix, bias) if y is None else y


def fake(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """[..., U] -> [..., N]."""
    count, length = matrix.shape
    packed.check_fit(x, mask, matrix, count, (bias, length))
    return x.new_empty(*x.shape[:-1], length)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The kept units."""
    return packed.read_of(node)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """U units of about U + 3 values, in every format; all units kept, and none."""
    x = torch.randn(1, tokens, units, generator=generator)
    mask = torch.rand(1, tokens, units, generator=generator) < 0.5
    length = packed.even(units + 3)
    bias = torch.randn(length, generator=generator)
    matrices = packed.example_matrices(generator, units, length)
    odd = torch.randn(units, length - 1, generator=generator)
    coded = packed.example_minima(generator, units, length)
    return [
        *((x, mask, *m.tensors, b, *m.format) for m in matrices for b in (None, bias)),
        *((x, mask, *m.tensors, bias, *m.format, m.minima) for m in coded),
        (x.bfloat16(), mask, odd.bfloat16()),
        (x, torch.ones_like(mask), odd),
        (x, torch.zeros_like(mask), odd),
    ]


STEPS = """
    nothing = Constant <value_float = 0.0> ()
    kept = Where (mask, x, nothing)
    product = MatMul (kept, values)
    y = Add (product, bias)
"""


def to_onnx(x: Tensor, mask: Tensor, matrix: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """`PackedGatherLinear`, with the suffix of the format."""
    _, length = matrix.shape
    bias = packed_onnx.bias_of(bias, length)
    return packed_onnx.node("PackedGatherLinear", x, mask, matrix, bias, (*x.shape[:-1], length))


OPERATOR = Operator(
    "packed_gather_linear",
    packed.schema(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, packed_onnx.bodies("PackedGatherLinear", "y", STEPS)),
    tolerance=packed.TOLERANCE,
)
