"""`dequantize`: the matrix that the codes of a quantised weight stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.errors import UnsupportedModel
from dipc.ir.codes import BITS, CodeFormat, QuantizedTensor, piece_of, round_to_nearest, unpack
from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of

SCALES = (torch.float16, torch.float32)
"""What scales and minima may be stored in."""
_NATIVE_BITS = 4


def reference(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    axis: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """W = (codes - zeros) * scales, or codes * scales + minima, in float32 and in this order, then `dtype`.

    codes uint8 [R, C bits / 8], the lowest bits of a byte first (`dipc.ir.codes.pack`); scales float16 or float32,
    zeros uint8 and minima like the scales [ceil(R / group), C] where `axis` is 0, [R, ceil(C / group)] where it is 1;
    without zeros 2^(bits - 1), or 0 beside minima -> [R, C]. As ONNX's DequantizeLinear with blocks, which has no
    minima. Codes times scales of 16 bits, or of 16 times 8 as in GGUF, are exact, so that the sum is all that rounds.
    """
    wide = unpack(codes, bits).float()
    rows, columns = wide.shape

    def spread(table: Tensor) -> Tensor:
        return table.float().repeat_interleave(min(group, wide.shape[axis]), axis)[:rows, :columns]

    if minima is not None:
        return (wide * spread(scales) + spread(minima)).to(dtype)
    zero = 2 ** (bits - 1) if zeros is None else spread(zeros)
    return ((wide - zero) * spread(scales)).to(dtype)


def kernel(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    axis: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """The same bits by the native library, where the tensors are dense and on the CPU; else the reference."""
    given = [t for t in (codes, scales, zeros, minima) if t is not None]
    dense = all(t.is_cpu and t.is_contiguous() and t.numel() for t in given)
    if not dense or bits < _NATIVE_BITS or native.library() is None:
        return reference(codes, scales, zeros, bits, group, axis, dtype, minima)
    if bits not in (4, 8):
        wide = QuantizedTensor(codes, scales, zeros, bits, group, axis, minima).widened(8)
        codes, bits = wide.codes, wide.bits
    native.set_threads(torch.get_num_threads())
    given_scales, given_zeros, given_minima = (None if t is None else buffer_of(t) for t in (scales, zeros, minima))
    matrix = native.UnitMatrix(buffer_of(codes), given_scales, given_zeros, bits, group, axis, given_minima)
    rows = torch.empty(matrix.units, matrix.length)
    native.widen(matrix, buffer_of(rows))
    return rows.to(dtype)


def buffer_of(t: Tensor) -> native.Buffer:
    """The memory of a dense tensor."""
    return native.Buffer(t.data_ptr(), str(t.dtype).removeprefix("torch."), tuple(t.shape), t)


def fake(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    axis: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Tensor:
    """[R, C], from codes of 2, 3, 4, 5, 6 or 8 bits."""
    if bits not in BITS or group < 1 or axis not in (0, 1):
        raise ValueError(f"dequantize: {bits} bits in groups of {group} along dim {axis}")
    if codes.dim() != 2 or codes.dtype != torch.uint8:
        raise ValueError(f"dequantize: codes are {codes.dtype} {tuple(codes.shape)}, not a matrix of uint8")
    if codes.shape[1] % piece_of(bits)[1]:
        raise ValueError(f"dequantize: {codes.shape[1]} bytes of a row hold no whole number of {bits}-bit codes")
    shape = [codes.shape[0], codes.shape[1] * 8 // bits]
    check_tables(shape, scales, zeros, minima, group, axis)
    return torch.empty(shape, dtype=dtype, device=codes.device)


def check_tables(
    shape: Sequence[int], scales: Tensor | None, zeros: Tensor | None, minima: Tensor | None, group: int, axis: int
) -> None:
    """ValueError where scales, zeros and minima do not fit a matrix of this shape, or each other."""
    groups = [-(-n // group) if dim == axis else n for dim, n in enumerate(shape)]
    given = [t for t in (scales, zeros, minima) if t is not None]
    if scales is None or any(list(t.shape) != groups for t in given):
        raise ValueError(
            f"dequantize: scales, zeros and minima {[tuple(t.shape) for t in given]} where a matrix "
            f"{list(shape)} has {groups}"
        )
    if scales.dtype not in SCALES or (minima is not None and (minima.dtype != scales.dtype or zeros is not None)):
        raise ValueError(
            f"dequantize: scales are {scales.dtype}; they are float16 or float32, and minima too, without zeros"
        )


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Nothing by itself: the product that takes the matrix says which codes and scales it reads (`weight_read`)."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """A matrix [U + 3, 8 U] in groups of 5, which need not divide it: all widths, both dims, both symmetries."""
    weight = torch.randn(units + 3, 8 * units, generator=generator)
    made: list[tuple[Any, ...]] = []
    forms = ((2, 0, False), (2, 1, True), (3, 0, True), (3, 1, False))
    for bits, axis, symmetric in (*forms, (4, 0, True), (4, 1, False), (8, 1, True), (8, 0, False)):
        q = round_to_nearest(weight, bits, 5, axis, symmetric)
        made.append((q.codes, q.scales, q.zeros, bits, 5, axis, torch.float32 if symmetric else torch.bfloat16))
    for bits, axis, dtype in ((4, 1, torch.float16), (4, 0, torch.float32), (5, 1, torch.float32), (8, 1, SCALES[0])):
        q = with_minima(generator, (units + 3, 8 * units), CodeFormat(bits, 5, axis), dtype)
        made.append((q.codes, q.scales, None, bits, 5, axis, torch.float32, q.minima))
    q = round_to_nearest(weight, 6, 5, 1)
    return [*made, (q.codes, q.scales.float(), None, 6, 5, 1, torch.float32)]


def with_minima(
    generator: torch.Generator, shape: tuple[int, int], form: CodeFormat, dtype: torch.dtype
) -> QuantizedTensor:
    """A random matrix [R, C] of codes with minima, of scales and minima in this dtype."""
    rows, columns = shape
    codes = torch.randint(256, (rows, columns * form.bits // 8), generator=generator).byte()
    groups = [-(-n // form.group) if dim == form.axis else n for dim, n in enumerate(shape)]
    scales, minima = torch.randn(2, *groups, generator=generator).to(dtype) / 2**form.bits
    return QuantizedTensor(codes, scales, None, form.bits, form.group, form.axis, minima * 2 ** (form.bits - 1))


# Codes of 4 bits are UINT4 in an ONNX file, of 8 bits UINT8. Zero points may be one for all, [1, 1].
# The Reshape changes nothing; without it ONNX Runtime would make dequantisation and product one MatMulNBits, which
# rounds activations to 8 bits.
ONNX_STEPS = """
    wide_scales = Cast <to = 1> (scales)
    groups = Shape (scales)
    every_zero = Expand (zeros, groups)
    zero_codes = CastLike (every_zero, {codes})
    widened = DequantizeLinear <axis: int = @axis, block_size: int = @group> ({codes}, wide_scales, zero_codes)
    same_shape = Shape (widened)
    {values} = Reshape (widened, same_shape)
"""

BODY = f"""
Dequantize <bits, group, axis> (codes, scales, zeros) => (w)
{{{ONNX_STEPS.format(codes="codes", values="w")}}}
"""


# DequantizeLinear has no minima. They are spread over their groups by the index of each value's, and first dequantised
# themselves, of ones: ONNX Runtime folds constants, but nothing that is dequantised, so no matrix of minima is stored.
MINIMA_STEPS = """
    wide_scales = Cast <to = 1> (scales)
    scaled = DequantizeLinear <axis: int = @axis, block_size: int = @group> ({codes}, wide_scales)
    wide_minima = Cast <to = 1> (minima)
    groups = Shape (minima)
    ones = ConstantOfShape <value = uint8[1] {{1}}> (groups)
    given_minima = DequantizeLinear <axis: int = @axis, block_size = 1> (ones, wide_minima)
    shape = Shape (scaled)
    dim = Constant <value_int: int = @axis> ()
    length = Gather (shape, dim)
    start = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    places = Range (start, length, step)
    width = Constant <value_int: int = @group> ()
    owners = Div (places, width)
    offsets = Gather <axis: int = @axis> (given_minima, owners)
    {values} = Add (scaled, offsets)
"""

MINIMA_BODY = f"""
DequantizeMinima <bits, group, axis> (codes, scales, minima) => (w)
{{{MINIMA_STEPS.format(codes="codes", values="w")}}}
"""


def to_onnx(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group: int,
    axis: int,
    dtype: torch.dtype,
    minima: Tensor | None = None,
) -> Any:
    """`Dequantize`, or `DequantizeMinima`, in float32.

    Raises UnsupportedModel for codes of other bits than 4 and 8, which ONNX Runtime cannot read.
    """
    if bits not in (4, 8):
        raise UnsupportedModel(f"weights of {bits} bits have no ONNX form; quantise to 4 or 8 bits to export the model")
    shape = (codes.shape[0], codes.shape[1] * (8 // bits))
    attributes: dict[str, int | float | str] = {"bits": bits, "group": group, "axis": axis}
    if minima is not None:
        made = onnx_node("DequantizeMinima", (codes, scales, minima), attributes, (torch.float32, shape))
    else:
        inputs = (codes, scales, onnx_zeros(zeros, bits))
        made = onnx_node("Dequantize", inputs, attributes, (torch.float32, shape))
    return made.to(dtype)


def onnx_zeros(zeros: Tensor | None, bits: int) -> Tensor:
    """The zero points, or the middle code for all."""
    return torch.full((1, 1), 2 ** (bits - 1), dtype=torch.uint8) if zeros is None else zeros


OPERATOR = Operator(
    "dequantize",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, {"Dequantize": BODY, "DequantizeMinima": MINIMA_BODY}),
    makes_weight_from="codes",
)
