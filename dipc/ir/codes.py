"""Quantised matrices as tensors: rounding to the nearest code, packing codes into bytes, transposing exactly.

Groups of `group` consecutive elements share a scale and, where they are asymmetric, a zero point or a minimum; the last
group may be shorter. Shapes: R rows, C columns; N groups along the dim that they run along, ceil(R / group) or
ceil(C / group). What the codes mean is the operator `dequantize`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor
from torch.nn.functional import pad

BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class CodeFormat:
    """How a matrix is rounded to codes.

    Attributes:
        bits: of a code, one of `BITS`.
        group: elements that share a scale.
        axis: the dim along which groups run.
        symmetric: zero is the middle code; otherwise every group has a zero point of its own.
    """

    bits: int
    group: int
    axis: int
    symmetric: bool = True


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A matrix [R, C] as codes.

    Attributes:
        codes: uint8 [R, C bits / 8], as `pack` writes them.
        scales: float16, or float32 where 16 bits would round them; [N, C] where `axis` is 0, [R, N] where it is 1.
        zeros: uint8 of the scales' shape; None where every zero point is the middle code, 2^(bits - 1), or 0 beside
            minima.
        bits: of a code, one of `BITS`.
        group: elements of a group.
        axis: the dim along which groups run.
        minima: of the scales' shape and dtype, what code 0 stands for in each group; None where zero points say so.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int
    group: int
    axis: int
    minima: Tensor | None = None

    @property
    def parts(self) -> dict[str, Tensor | None]:
        """The tensors that it is stored as, by the name of the argument that takes each."""
        return {"codes": self.codes, "scales": self.scales, "zeros": self.zeros, "minima": self.minima}

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(t.numel() * t.element_size() for t in self.parts.values() if t is not None)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        rows, width = self.codes.shape
        return rows, width * 8 // self.bits

    def transposed(self) -> QuantizedTensor:
        """The matrix [C, R] of the same values; ValueError where its rows have codes for no whole number of pieces."""
        codes = pack(unpack(self.codes, self.bits).T, self.bits)
        scales, zeros, minima = (
            None if t is None else t.T.contiguous() for t in (self.scales, self.zeros, self.minima)
        )
        assert scales is not None
        return QuantizedTensor(codes, scales, zeros, self.bits, self.group, 1 - self.axis, minima)

    def rows(self, chosen: slice | Tensor) -> QuantizedTensor:
        """Some rows, or all in another order. ValueError where groups run across rows."""
        if self.axis == 0:
            raise ValueError("groups run across rows, which share their scales")
        codes, scales, zeros, minima = (None if t is None else t[chosen] for t in self.parts.values())
        assert codes is not None and scales is not None
        return QuantizedTensor(codes, scales, zeros, self.bits, self.group, self.axis, minima)

    def widened(self, bits: int) -> QuantizedTensor:
        """The same values in wider codes: those that count from the middle are moved to the new one.

        Raises:
            ValueError: fewer bits than the codes have, or a number of columns that `pack` refuses.
        """
        if bits < self.bits:
            raise ValueError(f"codes of {self.bits} bits do not fit {bits}")
        moved = 2 ** (bits - 1) - 2 ** (self.bits - 1) if self.zeros is None and self.minima is None else 0
        codes = pack(unpack(self.codes, self.bits) + moved, bits)
        return QuantizedTensor(codes, self.scales, self.zeros, bits, self.group, self.axis, self.minima)


def piece_of(bits: int) -> tuple[int, int]:
    """How many codes share how many bytes: (2, 1) of 4 bits, (8, 3) of 3, (4, 3) of 6, (1, 1) of 8."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [R, C] as they are stored, [R, C bits / 8]: the bits of a row run on, each code's lowest first.

    Of 4 bits element 2j is the low half of byte j and 2j + 1 the high half; eight codes of 3 bits are three bytes.

    Raises:
        ValueError: a row holds no whole number of pieces (`piece_of`).
    """
    if bits == 8:
        return codes.contiguous()
    count, size = piece_of(bits)
    if codes.shape[-1] % count:
        raise ValueError(f"{codes.shape[-1]} columns: {shared_bytes(bits)}, so the number must be {multiple_of(count)}")
    wide = codes if size == 1 else codes.int() if size < _INT_BYTES else codes.long()
    word = reduce(or_, (wide[..., i::count] << bits * i for i in range(count)))
    if size == 1:
        return word.contiguous()
    return torch.stack([word >> 8 * j & 255 for j in range(size)], -1).flatten(-2).to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`: uint8 [R, C]."""
    if bits == 8:
        return packed
    count, size = piece_of(bits)
    wide = packed if size == 1 else packed.int() if size < _INT_BYTES else packed.long()
    word = wide if size == 1 else reduce(or_, (wide[..., j::size] << 8 * j for j in range(size)))
    return torch.stack([word >> bits * i & 2**bits - 1 for i in range(count)], -1).flatten(-2).to(torch.uint8)


def shared_bytes(bits: int) -> str:
    """`two 4-bit codes share a byte`."""
    count, size = piece_of(bits)
    return f"{_NUMBERS[count]} {bits}-bit codes share {'a byte' if size == 1 else f'{_NUMBERS[size]} bytes'}"


def multiple_of(count: int) -> str:
    """`even`, or `a multiple of 8`."""
    return "even" if count == 2 else f"a multiple of {count}"


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 8: "eight"}
_INT_BYTES = 4  # of a 32-bit number, the sign's among them


def round_to_nearest(weight: Tensor, bits: int, group: int, axis: int, symmetric: bool = True) -> QuantizedTensor:
    """Quantise a matrix [R, C] of finite numbers; each code is the nearest, by the scale as it is stored.

    Symmetric: the element of largest magnitude becomes code 0, exactly but for the scale's rounding, and zero the
    middle one. Asymmetric: the range from the least to the greatest, zero included, is cut into 2^bits - 1 steps. Zero
    is exact in both. On the meta device only shapes are found.

    Raises:
        ValueError: other bits than in `BITS`, or a number of columns that `pack` refuses.
    """
    if bits not in BITS:
        raise ValueError(f"{bits} bits: codes have {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}")
    turned = weight.detach().float() if axis == 1 else weight.detach().float().T
    count = turned.shape[1]
    grouped = in_groups(turned, group)
    scales, zeros = grid(grouped, bits, symmetric)
    codes = nearest(grouped, scales[..., None], zeros[..., None], bits).flatten(1)[:, :count]
    stored = [t if axis == 1 else t.T for t in (codes, scales, zeros.to(torch.uint8))]
    kept_zeros = None if symmetric else stored[2].contiguous()
    return QuantizedTensor(pack(stored[0], bits), stored[1].contiguous(), kept_zeros, bits, group, axis)


def in_groups(values: Tensor, group: int) -> Tensor:
    """[..., n] -> [..., ceil(n / group), group]; added zeros change no magnitude and no range that includes zero."""
    padded = pad(values, (0, -values.shape[-1] % group))
    return padded.reshape(*values.shape[:-1], -1, group)


def grid(grouped: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales, float16, and zero points, whole numbers, of groups [..., group]."""
    return _symmetric(grouped, bits) if symmetric else _asymmetric(grouped, bits)


def nearest(values: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The nearest codes, uint8, by scales as they are stored; a scale of zero gives the code of zero."""
    return ((values / _divisor(scales)).round() + zeros).clamp(0, 2**bits - 1).to(torch.uint8)


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
