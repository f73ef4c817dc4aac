"""Quantised matrices as tensors: rounding to the nearest code, packing two codes to a byte, transposing exactly.

Groups of `group` consecutive elements share a 16-bit scale and, where they are asymmetric, a zero point; the last group
may be shorter. Shapes: R rows, C columns; N groups along the dim that they run along, ceil(R / group) or
ceil(C / group). What the codes mean is the operator `dequantize`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

BITS = (4, 8)


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A matrix [R, C] as codes.

    Attributes:
        codes: uint8 [R, C], or [R, C / 2] of 4 bits: element 2j in the low half of byte j and 2j + 1 in the high half.
        scales: float16 [N, C] where `axis` is 0, [R, N] where it is 1.
        zeros: uint8 of the scales' shape; None where every zero point is the middle code, 2^(bits - 1).
        bits: of a code, 4 or 8.
        group: elements of a group.
        axis: the dim along which groups run.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int
    group: int
    axis: int

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        rows, columns = self.codes.shape
        return rows, columns * (8 // self.bits)

    def transposed(self) -> QuantizedTensor:
        """The matrix [C, R] of the same values; ValueError for an odd number of rows of 4 bits."""
        turned = unpack(self.codes, self.bits).T
        zeros = None if self.zeros is None else self.zeros.T.contiguous()
        scales = self.scales.T.contiguous()
        return QuantizedTensor(pack(turned, self.bits), scales, zeros, self.bits, self.group, 1 - self.axis)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [R, C] as they are stored, [R, C / 2] of 4 bits; ValueError where C is odd."""
    if bits == 8:
        return codes.contiguous()
    if codes.shape[-1] % 2:
        raise ValueError(f"{codes.shape[-1]} columns: two 4-bit codes share a byte, so the number must be even")
    return (codes[..., 0::2] | codes[..., 1::2] << 4).contiguous()


def unpack(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`: uint8 [R, C]."""
    return codes if bits == 8 else torch.stack((codes & 15, codes >> 4), -1).flatten(-2)


def round_to_nearest(weight: Tensor, bits: int, group: int, axis: int, symmetric: bool = True) -> QuantizedTensor:
    """Quantise a matrix [R, C] of finite numbers; each code is the nearest, by the scale as it is stored.

    Symmetric: the element of largest magnitude becomes code 0, exactly but for the scale's rounding, and zero the
    middle one. Asymmetric: the range from the least to the greatest, zero included, is cut into 2^bits - 1 steps. Zero
    is exact in both. On the meta device only shapes are found.

    Raises:
        ValueError: other bits than 4 or 8, or an odd number of columns of 4 bits.
    """
    if bits not in BITS:
        raise ValueError(f"{bits} bits: codes have 4 or 8")
    turned = weight.detach().float() if axis == 1 else weight.detach().float().T
    count = turned.shape[1]
    # Zeros change neither the largest magnitude nor a range that includes zero.
    grouped = pad(turned, (0, -count % group)).unflatten(1, (-1, group))
    scales, zeros = _symmetric(grouped, bits) if symmetric else _asymmetric(grouped, bits)
    steps = (grouped / _divisor(scales)[..., None]).round() + zeros[..., None]
    codes = steps.clamp(0, 2**bits - 1).to(torch.uint8).flatten(1)[:, :count]
    stored = [t if axis == 1 else t.T for t in (codes, scales, zeros.to(torch.uint8))]
    kept_zeros = None if symmetric else stored[2].contiguous()
    return QuantizedTensor(pack(stored[0], bits), stored[1].contiguous(), kept_zeros, bits, group, axis)


def _symmetric(grouped: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zeros of groups [..., group]."""
    middle = 2 ** (bits - 1)
    extreme = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True)).squeeze(-1)
    return _half(extreme / -middle), torch.full_like(extreme, middle)


def _asymmetric(grouped: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    last = 2**bits - 1
    least, greatest = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scales = _half((greatest - least) / last)
    return scales, (-least / _divisor(scales)).round().clamp(0, last)


def _half(scales: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return scales.clamp(-limit, limit).half()


def _divisor(scales: Tensor) -> Tensor:
    """The scales as they are stored; 1 where a group's is zero, so that its codes are those of zero."""
    return torch.where(scales == 0, 1.0, scales.float())
