"""compressed-tensors, as llm-compressor and others write it.

    pack-quantized    weight_packed int32 [R, C bits / 32], codes of a row running on, and weight_shape
    int-quantized     weight int8 [R, C]
    float-quantized   weight float8 [R, C], which is widened

    weight_scale        [R, G] of groups, [R, 1] of channels, [1] of the tensor, or a grid of blocks
    weight_zero_point   int8 like the scales, or packed along the outputs like the codes
    weight_g_idx        the group of each input, where they were ordered by activation

Codes count from the middle: W = (q - zero) scale, where q = code - 2^(bits - 1). What a config says of activations is
left out, as it is for other checkpoints: they are not rounded. Source: the compressors of compressed-tensors 0.20.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dipc.frontend.prequantized.layout import JsonLike, Layout, Matrix, Parts, as_bytes, grouped, take, unpacked

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "dense")
# Other widths than these were laid out in another way by earlier versions.
_PACKED_BITS = (4, 8)
_SCALES = (torch.float16, torch.bfloat16, torch.float32)


def _groups(about: JsonLike) -> Iterator[tuple[str, JsonLike]]:
    """Format and weights of each of the config's groups."""
    for group in about["config_groups"].values():
        yield str(group.get("format") or about.get("format")), group.get("weights") or {}


def _obstacle(about: JsonLike) -> str | None:
    try:
        groups = list(_groups(about))
        for form, weights in groups:
            if form not in _FORMATS:
                return f"the format {form!r}"
            if form == "pack-quantized" and weights.get("num_bits") not in _PACKED_BITS:
                return f"packed codes of {weights.get('num_bits')} bits"
        sparsity, transforms = about.get("sparsity_config") or {}, about.get("transform_config") or {}
        if sparsity and sparsity.get("format") not in (None, "dense"):
            return f"the sparse format {sparsity['format']!r}"
        return "rotated weights (transform_config)" if transforms.get("config_groups") else None
    except (AttributeError, KeyError, TypeError):
        return "config_groups that it cannot mean"


def _matrix(parts: Parts, shape: tuple[int, int], about: JsonLike) -> Matrix:
    weight = parts.get("weight")
    if weight is not None and weight.dtype != torch.int8:
        return _floats(take(parts, "weight", shape, torch.float8_e4m3fn, torch.float8_e5m2), parts, about)
    rows, columns = shape
    if weight is not None:
        bits, codes = 8, (take(parts, "weight", shape, torch.int8).short() + 128).to(torch.uint8)
    else:
        bits = _bits(parts, columns, about)
        words = take(parts, "weight_packed", (rows, -(-columns * bits // 32)), torch.int32)
        if columns * bits % 8:
            raise ValueError(f"{columns} codes of {bits} bits fill no whole bytes")
        codes = as_bytes(words)[:, : columns * bits // 8].contiguous()
    scales = _scales(parts, rows)
    group = _group_size(columns, scales.shape[1], about)
    zeros = _zeros(parts, scales.shape, bits)
    group_of = parts.get("weight_g_idx")
    if group_of is not None and (tuple(group_of.shape) != (columns,) or bool((group_of < 0).all())):
        group_of = None
    return grouped(codes, scales, zeros, bits, group, group_of)


def _bits(parts: Parts, columns: int, about: JsonLike) -> int:
    """The width of packed codes, of those that the config has: the one that fills the row."""
    width = parts["weight_packed"].shape[-1]
    stated = [weights.get("num_bits") for _, weights in _groups(about)]
    found = [bits for bits in _PACKED_BITS if bits in stated and -(-columns * bits // 32) == width]
    if not found:
        raise ValueError(f"weight_packed has rows of {width} words, which are no {columns} codes of {stated} bits")
    return found[0]


def _scales(parts: Parts, rows: int) -> Tensor:
    """Scales [R, G]."""
    scales = parts.get("weight_scale")
    if scales is None or scales.dtype not in _SCALES:
        raise ValueError("has no weight_scale of floating point numbers")
    if scales.numel() == 1:
        return scales.reshape(1, 1).expand(rows, 1)
    if scales.dim() != 2 or scales.shape[0] != rows:
        raise ValueError(f"weight_scale is {list(scales.shape)}, neither of {rows} outputs nor of the tensor")
    return scales


def _group_size(columns: int, groups: int, about: JsonLike) -> int:
    """Inputs of a group: what the config says, or an equal share of them."""
    stated = [int(weights.get("group_size") or 0) for _, weights in _groups(about)]
    for size in (*stated, columns // groups):
        if size > 0 and -(-columns // size) == groups:
            return size
    raise ValueError(f"weight_scale has {groups} groups, which {columns} inputs do not fill")


def _zeros(parts: Parts, shape: torch.Size, bits: int) -> Tensor:
    """The code of zero in each group [R, G], whole numbers."""
    middle, stored = 2 ** (bits - 1), parts.get("weight_zero_point")
    if stored is None:
        return torch.full(tuple(shape), middle)
    if stored.dtype == torch.int32:
        rows, groups = shape
        words = take(parts, "weight_zero_point", (-(-rows * bits // 32), groups), torch.int32)
        return unpacked(words.T, bits, rows).T.int()
    if stored.is_floating_point() or stored.numel() not in (1, shape.numel()):
        raise ValueError(f"weight_zero_point is {list(stored.shape)} and should be {list(shape)}")
    zeros: Tensor = (stored.int() + middle).reshape(-1, 1 if stored.numel() == 1 else shape[1])
    return zeros.expand(tuple(shape))


def _floats(weight: Tensor, parts: Parts, about: JsonLike) -> Tensor:
    """Widen FP8: a scale for all, for each output, or for each block."""
    scales = parts.get("weight_scale")
    if scales is None:
        raise ValueError("has no weight_scale")
    wide: Tensor = weight.float()
    scales = scales.float()
    if scales.numel() == 1 or tuple(scales.shape) == (weight.shape[0], 1):
        return wide * scales.reshape(-1, 1)
    for block in (weights.get("block_structure") for _, weights in _groups(about)):
        if block and all(-(-n // b) == s for n, b, s in zip(weight.shape, block, scales.shape, strict=True)):
            spread = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
            return wide.mul_(spread[: weight.shape[0], : weight.shape[1]])
    raise ValueError(f"weight_scale is {list(scales.shape)}, which is neither of outputs nor of blocks")


_LEFT_OUT = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
_PARTS = ("weight", "weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx")
LAYOUT = Layout(lambda parts: "weight_scale" in parts, _obstacle, _matrix, (*_PARTS, *_LEFT_OUT))
