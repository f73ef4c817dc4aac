"""`unmask`: the matrix that was pruned for good, from the values that were kept and one bit for every weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc.ir.codes import pack, unpack
from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of


def reference(values: Tensor, kept: Tensor) -> Tensor:
    """W, zero where nothing was kept. values [K], row after row; kept uint8 [R, C / 8], the lowest bit first -> [R, C].

    K is the number of bits that are set.
    """
    mask = unpack(kept, 1).bool()
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def fake(values: Tensor, kept: Tensor) -> Tensor:
    """[R, C], from the bits of R C weights and no more values than that."""
    if kept.dim() != 2 or kept.dtype != torch.uint8 or values.dim() != 1 or len(values) > 8 * kept.numel():
        given = f"values {tuple(values.shape)} and kept {kept.dtype} {tuple(kept.shape)}"
        raise ValueError(f"unmask: {given}; a matrix [R, 8 C] has bits uint8 [R, C] and a value for each that is set")
    return values.new_empty(kept.shape[0], 8 * kept.shape[1])


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Nothing by itself: the product that takes the matrix says which bits and values it reads (`weight_read`)."""
    return ()


def mask_of(matrix: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Values and kept bits of a matrix [R, C] of which bool [R, C] is kept; ValueError unless 8 divides C."""
    return matrix[keep], pack(keep.to(torch.uint8), 1)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """A matrix [U + 3, 8 U] of which half is kept, all, or nothing."""
    shape = (units + 3, 8 * units)
    score = torch.rand(shape, generator=generator)
    weight = torch.randn(shape, generator=generator)
    whole = mask_of(weight.bfloat16(), score < 2)
    return [mask_of(weight, score < 0.5), mask_of(weight.half(), score < 0.3), whole, mask_of(weight, score < 0)]


BODY = """
Unmask (values, kept) => (w)
{
    powers = Constant <value = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    last = Constant <value_ints = [-1]> ()
    bytes = Unsqueeze (kept, last)
    bits = BitwiseAnd (bytes, powers)
    set = Cast <to = 9> (bits)
    row_after_row = Constant <value_ints = [0, -1]> ()
    mask = Reshape (set, row_after_row)
    places = NonZero (mask)
    indices = Transpose <perm = [1, 0]> (places)
    nothing = Cast <to = 1> (mask)
    zero = Constant <value_float = 0.0> ()
    zeros = Mul (nothing, zero)
    wide = Cast <to = 1> (values)
    w = ScatterND (zeros, indices, wide)
}
"""


def to_onnx(values: Tensor, kept: Tensor) -> Any:
    """`Unmask`, in float32."""
    shape = (kept.shape[0], 8 * kept.shape[1])
    return onnx_node("Unmask", (values, kept), {}, (torch.float32, shape))


OPERATOR = Operator(
    "unmask",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    onnx=OnnxForm(to_onnx, {"Unmask": BODY}),
    makes_weight_from="kept",
)
