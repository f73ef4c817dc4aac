"""Shared by the layouts: the parts of a layer, and words of 32 bits that hold codes.

Shape legend: R outputs, C inputs, G groups along the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dipc.ir.codes import QuantizedTensor, unpack

Parts = Mapping[str, Tensor]
"""The tensors of one layer by what follows the layer's path in their names."""
JsonLike = Mapping[str, Any]
Matrix = QuantizedTensor | Tensor
"""A layer's matrix [R, C]: its codes, or its values where dipc has no such codes."""


@dataclass(frozen=True)
class Layout:
    """How a method stores the matrix of a linear layer.

    Attributes:
        holds: whether these parts are of a layer that is quantised.
        obstacle: what the quantization_config says that this layout does not read; None where there is nothing.
        matrix: the matrix of the parts, of this shape; ValueError, in words, where they are not what they should be.
        parts: names of all parts, of which a layer may have some.
    """

    holds: Callable[[Parts], bool]
    obstacle: Callable[[JsonLike], str | None]
    matrix: Callable[[Parts, tuple[int, int], JsonLike], Matrix]
    parts: tuple[str, ...]


def as_bytes(words: Tensor) -> Tensor:
    """Words int32 [..., W] as bytes [..., 4 W], the lowest first: codes run on as `dipc.ir.codes.pack` has them."""
    return words.contiguous().reshape(-1).view(torch.uint8).reshape(*words.shape[:-1], -1)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """The first codes of each row of words, uint8 [..., count]."""
    return unpack(as_bytes(words), bits)[..., :count]


def take(parts: Parts, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
    """A part. ValueError unless it is there, in that shape and one of the dtypes."""
    tensor = parts.get(name)
    if tensor is None:
        raise ValueError(f"has no {name}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {list(tensor.shape)} and should be {list(shape)}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, which this format does not have")
    return tensor


def exact_scales(scales: Tensor) -> Tensor:
    """Scales as codes have them: float16 where that rounds none of them, else float32."""
    half = scales.half()
    return half if torch.equal(half.float(), scales.float()) else scales.float()


def grouped(
    codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group: int, group_of: Tensor | None = None
) -> Matrix:
    """A matrix of codes [R, C], groups of inputs sharing scales and zero points.

    Values are made where dipc has no such codes: inputs in groups that are no runs (GPTQ's act-order), or a zero point
    past the last code.

    Args:
        codes: uint8 [R, C bits / 8], as `dipc.ir.codes.pack` writes them.
        scales: [R, G].
        zeros: the code of zero in each group, whole numbers [R, G].
        bits: of a code.
        group: inputs of a group.
        group_of: the group of each input [C]; None where they follow each other.
    """
    count = codes.shape[1] * 8 // bits
    runs = torch.arange(count) // group
    scattered = group_of is not None and not torch.equal(group_of.long(), runs)
    if not scattered and not bool((zeros > 2**bits - 1).any()):
        middle = bool((zeros == 2 ** (bits - 1)).all())
        stored = None if middle else zeros.to(torch.uint8).contiguous()
        return QuantizedTensor(codes, exact_scales(scales).contiguous(), stored, bits, group, 1)
    places = runs if group_of is None else group_of.long()
    if bool(((places < 0) | (places >= scales.shape[1])).any()):
        raise ValueError(f"puts inputs into other groups than its {scales.shape[1]}")
    wide = unpack(codes, bits).float()
    return wide.sub_(zeros.float()[:, places]).mul_(scales.float()[:, places])
