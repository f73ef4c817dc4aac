"""`row_linear`: a linear layer that computes, and reads, only the rows whose outputs are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read, argument, weight_read
from dipc.ir.signature import schema_of
from dipc.ops._masking import keep


def reference(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[mask] = W[mask] x + b[mask], zero elsewhere. x [..., I], mask bool[..., O], weight [O, I] -> y [..., O]."""
    return torch.where(mask, linear(x, weight, bias), 0)


def kernel(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same bits, sooner."""
    return keep(linear(x, weight, bias), mask)


def fake(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., I] -> [..., O]."""
    if mask.shape != (*x.shape[:-1], weight.shape[0]) or weight.shape[1] != x.shape[-1]:
        raise ValueError(f"x {tuple(x.shape)}, mask {tuple(mask.shape)} and weight {tuple(weight.shape)} do not fit")
    return x.new_empty(mask.shape)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The kept rows."""
    return (weight_read(argument(node, "weight"), "rows", argument(node, "mask")),)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """U - 1 inputs, U outputs."""
    x = torch.randn(1, tokens, max(1, units - 1), generator=generator)
    mask = torch.rand(1, tokens, units, generator=generator) < 0.5
    weight = torch.randn(units, x.shape[-1], generator=generator)
    return [(x, mask, weight), (x, mask, weight, torch.randn(units, generator=generator))]


BODY = """
RowLinear (x, mask, weight) => (y)
{
    zero = Constant <value_float = 0.0> ()
    wide = CastLike (weight, x)
    columns = Transpose <perm = [1, 0]> (wide)
    all = MatMul (x, columns)
    y = Where (mask, all, zero)
}
"""


def to_onnx(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """`RowLinear`, and the bias of the kept rows after it."""
    y = onnx_node("RowLinear", (x, mask, weight), {}, (x.dtype, mask.shape))
    return y if bias is None else y + torch.where(mask, bias, 0.0)


OPERATOR = Operator(
    "row_linear",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, {"RowLinear": BODY}),
    matrices={"weight": "x"},
)
