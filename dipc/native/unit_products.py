"""Products of a few tokens with a unit-major matrix, of which only the kept units are read.

Shapes: T tokens, U units, N values of a unit, F = N / 2 where a unit is a gate column followed by an up column.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipc.native.call import check, opened, pointer, typed

ACTIVATIONS: Mapping[str, int] = MappingProxyType({"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3})
"""The activations of the gated product, and their numbers in the C interface."""

_FLOATS = {"float32": 0, "float16": 1, "bfloat16": 2}
_TABLES = ("float16", "float32")
_CODES = {8: 3, 4: 4}

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Buffer(NamedTuple):
    """A dense row-major array by its address, for types that numpy lacks, with the object that keeps it alive."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    owner: object


class _Units(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("units", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("format", ctypes.c_int32),
        ("axis", ctypes.c_int32),
        ("minima", ctypes.c_void_p),
        ("tables", ctypes.c_int32),
    )


@dataclass(frozen=True)
class UnitMatrix:
    """A unit-major matrix [U, N]: row u is what unit u is made of.

    Attributes:
        data: float32, float16 or bfloat16 [U, N] where `bits` is 0; codes uint8 [U, N] of 8 bits, [U, N / 2] of 4 bits,
            the earlier value in the low half of a byte.
        scales: float16 or float32 [ceil(U / group), N] where `axis` is 0, [U, ceil(N / group)] where it is 1; None for
            floats.
        zeros: uint8 like the scales, or None for the middle code, and for 0 beside minima.
        bits: 0, 4 or 8.
        group: values that share a scale.
        axis: 0 for groups across units, 1 for groups along the unit.
        minima: as the scales, what code 0 stands for, or None.

    Raises:
        ValueError: a shape or dtype is not as stated.
    """

    data: Buffer
    scales: Buffer | None = None
    zeros: Buffer | None = None
    bits: int = 0
    group: int = 0
    axis: int = 0
    minima: Buffer | None = None

    def __post_init__(self) -> None:
        if len(self.data.shape) != 2 or self.bits not in (0, *_CODES) or self.axis not in (0, 1):
            raise ValueError(
                f"units {list(self.data.shape)} of {self.bits} bits, groups along dim {self.axis}: no unit-major matrix"
            )
        if not self.bits:
            if self.data.dtype not in _FLOATS or any(t is not None for t in (self.scales, self.zeros, self.minima)):
                raise ValueError(f"units are {self.data.dtype}; expected {' or '.join(_FLOATS)}, and no scales")
            return
        if self.zeros is not None and self.minima is not None:
            raise ValueError("units have zeros and minima; expected one of them")
        if self.scales is None or self.group < 1:
            raise ValueError(
                f"units of {self.bits} bits in groups of {self.group} need scales and a group of 1 or more"
            )
        groups = [self.units, self.length]
        groups[self.axis] = -(-groups[self.axis] // self.group)
        _fit("units", self.data, "uint8", self.data.shape)
        wide = self.scales.dtype if self.scales.dtype in _TABLES else "float16"
        _fit("scales", self.scales, wide, tuple(groups))
        if self.minima is not None:
            _fit("minima", self.minima, wide, tuple(groups))
        if self.zeros is not None:
            _fit("zeros", self.zeros, "uint8", tuple(groups))

    @property
    def units(self) -> int:
        """U."""
        return self.data.shape[0]

    @property
    def length(self) -> int:
        """N."""
        return self.data.shape[1] * (2 if self.bits == 4 else 1)

    @functools.cached_property
    def struct(self) -> _Units:
        """The matrix as the C interface takes it."""
        number = _CODES[self.bits] if self.bits else _FLOATS[self.data.dtype]
        given = (self.data, self.scales, self.zeros, self.minima)
        data, scales, zeros, minima = (None if b is None else b.address for b in given)
        sizes = (self.units, self.length, self.group if self.bits else 0)
        tables = _FLOATS[self.scales.dtype] if self.scales is not None else _FLOATS["float16"]
        return _Units(data, scales, zeros, *sizes, number, self.axis, minima, tables)


def gather_linear(matrix: UnitMatrix, x: Floats, mask: Bools, bias: Floats | None = None) -> Floats:
    """y = bias + the sum over kept units i of x_i times unit i.

    Args:
        matrix: [U, N].
        x: float32[T,U].
        mask: bool[T,U].
        bias: float32[N].

    Returns:
        float32[T,N].

    Raises:
        ValueError: a shape or dtype is not as stated.
        MissingDependency: the native library is absent.
    """
    bias = _bias(bias, matrix.length)
    return _product(opened().dipc_gather_linear, matrix, x, mask, bias, matrix.units, matrix.length)


def gather_glu(matrix: UnitMatrix, x: Floats, mask: Bools, bias: Floats | None, activation: str) -> Floats:
    """hidden = act(z[:, :F]) * z[:, F:] with z = gather_linear(...).

    Args:
        matrix: [U, 2 F], of each unit its gate column and then its up column.
        x: float32[T,U].
        mask: bool[T,U].
        bias: float32[2 F].
        activation: a name in `ACTIVATIONS`.

    Returns:
        float32[T,F].

    Raises:
        ValueError: a shape or dtype is not as stated, or the activation has no kernel.
        MissingDependency: the native library is absent.
    """
    if activation not in ACTIVATIONS or matrix.length % 2:
        raise ValueError(f"activation {activation!r}, units of {matrix.length} values: no kernel covers them")
    function, number = opened().dipc_gather_glu, ACTIVATIONS[activation]
    bias = _bias(bias, matrix.length)
    return _product(function, matrix, x, mask, bias, matrix.units, matrix.length // 2, number)


def row_linear(matrix: UnitMatrix, x: Floats, mask: Bools, bias: Floats | None = None) -> Floats:
    """y_u = unit u times x, plus bias_u, where u is kept; 0 elsewhere.

    Args:
        matrix: [U, N].
        x: float32[T,N].
        mask: bool[T,U].
        bias: float32[U].

    Returns:
        float32[T,U].

    Raises:
        ValueError: a shape or dtype is not as stated.
        MissingDependency: the native library is absent.
    """
    bias = _bias(bias, matrix.units)
    return _product(opened().dipc_row_linear, matrix, x, mask, bias, matrix.length, matrix.units)


def widen(matrix: UnitMatrix, rows: Buffer) -> None:
    """Write the matrix as float32 [U, N] to `rows`.

    Raises:
        ValueError: a shape or dtype is not as stated.
        MissingDependency: the native library is absent.
    """
    _fit("rows", rows, "float32", (matrix.units, matrix.length))
    check(opened().dipc_widen(ctypes.byref(matrix.struct), rows.address))


def set_threads(threads: int) -> None:
    """How many threads work on one call, the caller's included; 0 takes the physical cores of the process.

    Raises:
        ValueError: a negative number.
        MissingDependency: the native library is absent.
    """
    library = opened()
    if library.dipc_threads() != threads:
        check(library.dipc_set_threads(threads))


def instruction_set() -> str:
    """The instruction set in use, "avx512-vnni", "avx2" or "portable". DIPC_ISA forces a lower one.

    Raises:
        MissingDependency: the native library is absent.
    """
    return str(opened().dipc_isa().decode())


def _product(
    function: Callable[..., int],
    matrix: UnitMatrix,
    x: Floats,
    mask: Bools,
    bias: Floats | None,
    width_in: int,
    width_out: int,
    *options: Any,
) -> Floats:
    """Check x [T, width_in] and mask [T, U], and call a product of the C interface for y [T, width_out]."""
    tokens = len(x) if x.ndim == 2 else 0
    x = np.ascontiguousarray(typed("x", x, np.float32, tokens, width_in))
    mask = np.ascontiguousarray(typed("mask", mask, np.bool_, tokens, matrix.units))
    y = np.empty((tokens, width_out), np.float32)
    arguments = [pointer(x), pointer(mask), pointer(bias), *options, tokens, pointer(y)]
    check(function(ctypes.byref(matrix.struct), *arguments))
    return y


def _bias(bias: Floats | None, width: int) -> Floats | None:
    return None if bias is None else np.ascontiguousarray(typed("bias", bias, np.float32, width))


def _fit(name: str, buffer: Buffer, dtype: str, shape: tuple[int, ...]) -> None:
    if buffer.dtype != dtype or buffer.shape != shape:
        raise ValueError(f"{name} are {buffer.dtype}{list(buffer.shape)}; expected {dtype}{list(shape)}")
