"""The base of the packed products: the unit-major matrix that they read, and when the native kernels may read it.

Row u of the matrix, of N values, is what unit u is made of. Shapes: T tokens, U units, N values of a unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from dipc import native
from dipc.ir.codes import CodeFormat, QuantizedTensor
from dipc.ir.operator import Read, argument, quantized_read, weight_name
from dipc.ir.signature import schema_of
from dipc.ops import dequantize

TOLERANCE = 1e-3
"""How far native products with integer weights may be off: activations get 15 bits (dipc/native/README.md)."""

KERNEL_TOKENS = 8
"""For up to so many tokens only the kept rows are computed; for more, a product with the whole matrix is faster."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class PackedMatrix:
    """A unit-major matrix [U, N], as the packed products take it.

    Attributes:
        units: float32, float16 or bfloat16 [U, N] where `bits` is 0; else codes, uint8 [U, N] or [U, N / 2] of 4 bits.
        scales: float16 or float32 [ceil(U / group), N] where `axis` is 0, [U, ceil(N / group)] where it is 1; None for
            floats.
        zeros: uint8 like the scales, or None for the middle code, and for 0 beside minima.
        bits: 0, 4 or 8.
        group: values that share a scale.
        axis: 0 for groups across units, 1 for groups along the unit.
        minima: like the scales, what code 0 stands for, or None.
    """

    units: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None
    bits: int = 0
    group: int = 0
    axis: int = 0
    minima: Tensor | None = None

    @classmethod
    def of_codes(cls, q: QuantizedTensor) -> PackedMatrix:
        """The matrix of codes [U, N]."""
        return cls(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, q.minima)

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Units, scales and zeros."""
        return self.units, self.scales, self.zeros

    @property
    def format(self) -> tuple[int, int, int]:
        """Bits, group and axis."""
        return self.bits, self.group, self.axis

    @property
    def shape(self) -> tuple[int, int]:
        """U and N."""
        return int(self.units.shape[0]), int(self.units.shape[1]) * (2 if self.bits == 4 else 1)

    def transposed(self) -> PackedMatrix:
        """The matrix [N, U] of the same values. ValueError for an odd number of units of 4 bits."""
        if self.scales is None:
            return PackedMatrix(_turned(self.units))
        return PackedMatrix.of_codes(
            QuantizedTensor(self.units, self.scales, self.zeros, *self.format, self.minima).transposed()
        )

    def concat(self, other: PackedMatrix) -> PackedMatrix | None:
        """Units of both, this one's values first; None where they are stored in different ways.

        So they are too where a group would run over from one matrix into the other.
        """
        runs_over = self.axis == 1 and self.group and self.shape[1] % self.group
        if self._kinds != other._kinds or runs_over or self.shape != other.shape:
            return None
        pairs = zip((*self.tensors, self.minima), (*other.tensors, other.minima), strict=True)
        units, scales, zeros, minima = (None if a is None or b is None else torch.cat([a, b], 1) for a, b in pairs)
        assert units is not None
        return PackedMatrix(units, scales, zeros, *self.format, minima)

    @property
    def _kinds(self) -> tuple[object, ...]:
        """The format, and of which type each tensor is."""
        return (self.format, *(None if t is None else t.dtype for t in (*self.tensors, self.minima)))

    def values(self) -> Tensor:
        """The matrix in float32 [U, N]."""
        if self.scales is None:
            return self.units.float()
        return dequantize.reference(self.units, self.scales, self.zeros, *self.format, torch.float32, self.minima)

    def times(self, x: Tensor, *, rows: bool = False) -> Tensor:
        """x [..., U] times the matrix, or the matrix's rows times x [..., N]; in float32.

        Inputs and units of one 16-bit type are multiplied as they are: torch sums in float32 and rounds the sum.
        """
        if not self.bits and x.dtype == self.units.dtype:
            matrix = self.units
        else:
            x, matrix = x.float(), self.values()
        return (x @ (matrix.T if rows else matrix)).float()

    def check(self) -> None:
        """ValueError where the parts do not fit each other."""
        if self.units.dim() != 2 or self.bits not in (0, 4, 8) or self.axis not in (0, 1):
            raise ValueError(f"units {tuple(self.units.shape)} of {self.bits} bits do not fit a packed product")
        if not self.bits:
            tables = (self.scales, self.zeros, self.minima)
            if self.units.dtype not in FLOATS or any(t is not None for t in tables):
                raise ValueError(f"units of {self.units.dtype} do not fit: without bits they are floats without scales")
            return
        try:
            dequantize.check_tables(self.shape, self.scales, self.zeros, self.minima, max(self.group, 1), self.axis)
            fits = self.group >= 1
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"units {self.shape} in groups of {self.group} along dim {self.axis} and their scales do not fit"
            )


def _turned(matrix: Tensor, block: int = 64) -> Tensor:
    """The transpose of a matrix, dense: written in blocks that the processor's cache holds, twice as fast as whole."""
    turned = matrix.new_empty(matrix.shape[1], matrix.shape[0])
    for first in range(0, matrix.shape[0], block):
        turned[:, first : first + block] = matrix[first : first + block].T.contiguous()
    return turned


def schema(reference: Callable[..., Tensor]) -> str:
    """Return the schema of a packed product: what it reads, its biases, then how the matrix is stored and options."""
    return schema_of(reference, last=("bits", "group", "axis", "activation", "minima"))


def check_fit(x: Tensor, mask: Tensor, matrix: PackedMatrix, inputs: int, *biases: tuple[Tensor | None, int]) -> None:
    """ValueError unless x is [..., inputs], the mask [..., U] and each bias of its width."""
    matrix.check()
    fits = mask.shape == (*x.shape[:-1], matrix.shape[0]) and x.shape[-1] == inputs
    if not fits or any(b is not None and b.shape != (width,) for b, width in biases):
        raise ValueError(
            f"x {tuple(x.shape)}, mask {tuple(mask.shape)}, units {matrix.shape} and their bias do not fit"
        )


def read_of(node: fx.Node) -> tuple[Read, ...]:
    """The kept units, with the scales that are theirs; scales that units share are read whole."""
    units, scales, axis, mask = (argument(node, n) for n in ("units", "scales", "axis", "mask"))
    if scales is None:
        return (Read(weight_name(units), "rows", mask),)
    return (quantized_read(node, units, "rows", mask, along_unit=axis == 1),)


def call_native(
    product: Callable[..., native.Floats],
    x: Tensor,
    mask: Tensor,
    matrix: PackedMatrix,
    bias: Tensor | None,
    *options: str,
) -> Tensor | None:
    """A native product of x [..., I] and mask [..., U] in x's dtype, or None where the reference is to be taken.

    The kernels read dense matrices on the CPU; that of rows for up to `KERNEL_TOKENS` tokens, above which torch's dense
    product is as fast.
    """
    parts = [t for t in (*matrix.tensors, matrix.minima) if t is not None]
    gathers = product is not native.row_linear
    most = mask.numel() if gathers else KERNEL_TOKENS * mask.shape[-1]
    stored = all(t.is_cpu and t.is_contiguous() for t in parts)
    if not (0 < mask.numel() <= most and x.numel() and x.is_cpu and stored) or native.library() is None:
        return None
    native.set_threads(torch.get_num_threads())
    tables = (matrix.scales, matrix.zeros, matrix.minima)
    scales, zeros, minima = (None if t is None else dequantize.buffer_of(t) for t in tables)
    units = native.UnitMatrix(dequantize.buffer_of(matrix.units), scales, zeros, *matrix.format, minima)
    floats = None if bias is None else bias.detach().float().numpy()
    y = product(units, _rows(x.float()), _rows(mask), floats, *options)
    return torch.from_numpy(y).reshape(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def _rows(x: Tensor) -> NDArray[Any]:
    rows: NDArray[Any] = x.detach().reshape(-1, x.shape[-1]).numpy()
    return rows


def even(length: int) -> int:
    """The length, or one more: bytes of 4-bit codes hold two values."""
    return length + length % 2


def example_matrices(generator: torch.Generator, units: int, length: int) -> list[PackedMatrix]:
    """Matrices [U, N] in every format; N is even."""
    values = torch.randn(units, length, generator=generator)
    made = [PackedMatrix(values.to(dtype)) for dtype in FLOATS]
    for bits, axis, group in itertools.product((8, 4), (0, 1), (2, 32)):
        groups = [units, length]
        groups[axis] = -(-groups[axis] // group)
        codes = torch.randint(256, (units, length * bits // 8), generator=generator).byte()
        scales = torch.randn(groups, generator=generator).half() / 2**bits
        zeros = torch.randint(2**bits, groups, generator=generator).byte() if group == 2 else None
        made.append(PackedMatrix(codes, scales, zeros, bits, group, axis))
    return made


def example_minima(generator: torch.Generator, units: int, length: int) -> list[PackedMatrix]:
    """Matrices [U, N] of codes with minima, in every format, and one with scales of 32 bits alone; N is even."""
    made = []
    for bits, axis, dtype in itertools.product((8, 4), (0, 1), dequantize.SCALES):
        form = CodeFormat(bits, 32 if dtype == torch.float16 else 16, axis)
        made.append(PackedMatrix.of_codes(dequantize.with_minima(generator, (units, length), form, dtype)))
    wide = made[1]
    return [*made, PackedMatrix(wide.units, wide.scales, None, *wide.format)]
