"""`gather_linear`: a linear layer that reads only the columns of its weight whose inputs are kept."""

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
    """y = W[:, mask] x[mask] + b. x [..., I], mask bool[..., I], weight [O, I], bias [O] -> y [..., O]."""
    return linear(kept_inputs(x, mask, weight), weight, bias)


def kernel(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same bits, sooner."""
    return linear(keep(x, mask), weight, bias)


def kept_inputs(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what the weight multiplies: x, zero where the mask leaves it out."""
    return torch.where(mask, x, 0)


def fake(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., I] -> [..., O]."""
    if mask.shape != x.shape or weight.shape[1] != x.shape[-1]:
        raise ValueError(f"x {tuple(x.shape)}, mask {tuple(mask.shape)} and weight {tuple(weight.shape)} do not fit")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The kept columns."""
    return (weight_read(argument(node, "weight"), "columns", argument(node, "mask")),)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """U inputs, U + 3 outputs."""
    x = torch.randn(1, tokens, units, generator=generator)
    mask = torch.rand(1, tokens, units, generator=generator) < 0.5
    weight = torch.randn(units + 3, units, generator=generator)
    return [(x, mask, weight), (x, mask, weight, torch.randn(units + 3, generator=generator))]


BODY = """
GatherLinear (x, mask, weight) => (y)
{
    zero = Constant <value_float = 0.0> ()
    kept = Where (mask, x, zero)
    wide = CastLike (weight, x)
    columns = Transpose <perm = [1, 0]> (wide)
    y = MatMul (kept, columns)
}
"""


def to_onnx(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """`GatherLinear`, and the bias after it."""
    y = onnx_node("GatherLinear", (x, mask, weight), {}, (x.dtype, (*x.shape[:-1], weight.shape[0])))
    return y if bias is None else y + bias


OPERATOR = Operator(
    "gather_linear",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, {"GatherLinear": BODY}),
    matrices={"weight": kept_inputs},
)
