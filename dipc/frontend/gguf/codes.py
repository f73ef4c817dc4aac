"""Blocks of a GGUF file as codes: the same values, bit for bit, with nothing rounded a second time.

GGUF stores a matrix [R, C] row by row in blocks of 32 values, or of 256 in pieces of 32 or 16 (the K-quants). What a
block means is a product of its scale with small integers, and for some types a sum with its minimum: the form that
`dipc.ir.codes.QuantizedTensor` has for groups along dim 1. The integers are put in the order of the columns; scales and
minima are multiplied out where GGUF has them in two steps, 16 bits times 4, 6 or 8, which 32 bits hold exactly. They
are stored in float16 where that holds all of them, as it does for blocks of 32, and else in float32.

So `dequantize` gives what `gguf.quants.dequantize` does: code times scale, which float32 holds exactly, and then the
sum with the minimum, rounded once. Source of the layouts: ggml's `ggml-common.h`.

Shapes: N blocks of the whole matrix, B bytes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from dipc.ir.codes import QuantizedTensor, pack


class _Parts(NamedTuple):
    """Codes uint8 [N, values of a block]; scales, and minima or None, [N, groups of a block]."""

    codes: Tensor
    scales: Tensor
    minima: Tensor | None = None


@dataclass(frozen=True)
class BlockType:
    """A type of blocks.

    Attributes:
        bits: of a code.
        values: of a block.
        size_bytes: of a block.
        group: values that share a scale.
        parts: what the bytes [N, B] of blocks hold.
    """

    bits: int
    values: int
    size_bytes: int
    group: int
    parts: Callable[[Tensor], _Parts]

    @property
    def stored_bits(self) -> float:
        """Bits that a value takes in the file, its share of scales and minima included."""
        return 8 * self.size_bytes / self.values


def codes_of_blocks(data: Tensor, kind: str) -> QuantizedTensor:
    """A matrix [R, C] of a GGUF file as codes with groups along dim 1.

    Args:
        data: its bytes, uint8 [R, bytes of a row].
        kind: the name of its type, one of `BLOCKS`.

    Raises:
        ValueError: rows of no whole number of blocks.
    """
    form = BLOCKS[kind]
    if data.dim() != 2 or data.dtype != torch.uint8 or data.shape[1] % form.size_bytes:
        raise ValueError(f"{data.dtype} {list(data.shape)}: {kind} has rows of blocks of {form.size_bytes} bytes")
    rows = data.shape[0]
    codes, scales, minima = form.parts(data.reshape(-1, form.size_bytes))
    tables = [t for t in (scales, minima) if t is not None]
    if all(torch.equal(t.half().float(), t) for t in tables):
        tables = [t.half() for t in tables]
    scales, *rest = (t.reshape(rows, -1) for t in tables)
    return QuantizedTensor(
        pack(codes.reshape(rows, -1), form.bits), scales, None, form.bits, form.group, 1, rest[0] if rest else None
    )


def _half(data: Tensor) -> Tensor:
    """Float16 numbers [N, 2 n bytes], widened."""
    return data.contiguous().view(torch.float16).float()


def _nibbles(data: Tensor) -> Tensor:
    """[..., n] -> [..., 2 n]: the low halves of n bytes, then the high ones."""
    return torch.cat([data & 15, data >> 4], -1)


def _fields(data: Tensor, bits: int) -> Tensor:
    """[..., n] -> [..., 8 / bits, n]: the lowest bits of n bytes, then the next, up to the highest."""
    return torch.stack([data >> shift & 2**bits - 1 for shift in range(0, 8, bits)], -2)


def _fifth_bits(data: Tensor) -> Tensor:
    """The bits of four bytes in order, [N, 4] -> [N, 32], where a fifth bit belongs."""
    return _fields(data, 1).transpose(1, 2).flatten(1) << 4


def _q4_0(b: Tensor) -> _Parts:
    return _Parts(_nibbles(b[:, 2:]), _half(b[:, :2]))


def _q4_1(b: Tensor) -> _Parts:
    return _Parts(_nibbles(b[:, 4:]), _half(b[:, :2]), _half(b[:, 2:4]))


def _q5_0(b: Tensor) -> _Parts:
    return _Parts(_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6]), _half(b[:, :2]))


def _q5_1(b: Tensor) -> _Parts:
    return _Parts(_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]), _half(b[:, :2]), _half(b[:, 2:4]))


def _q8_0(b: Tensor) -> _Parts:
    return _Parts(b[:, 2:] ^ 128, _half(b[:, :2]))


def _q2_k(b: Tensor) -> _Parts:
    scales, codes = b[:, :16], _fields(b[:, 16:80].reshape(-1, 2, 32), 2)
    return _Parts(codes.flatten(1), _half(b[:, 80:82]) * (scales & 15), -(_half(b[:, 82:84]) * (scales >> 4)))


def _q3_k(b: Tensor) -> _Parts:
    low, high = _fields(b[:, 32:96].reshape(-1, 2, 32), 2).flatten(1), _fields(b[:, :32], 1).flatten(1)
    scales = _nibbles(b[:, 96:104]) | _fields(b[:, 104:108], 2).flatten(1) << 4
    return _Parts(low | high << 2, _half(b[:, 108:110]) * (scales.float() - 32))


def _k_tables(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima [N, 8] of blocks that begin with both steps' 16 bits, then 6 bits for each in 12 bytes."""
    first, second, rest = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = torch.cat([first & 63, (rest & 15) | (first >> 2 & 48)], 1)
    minima = torch.cat([second & 63, (rest >> 4) | (second >> 2 & 48)], 1)
    return _half(b[:, :2]) * scales, -(_half(b[:, 2:4]) * minima)


def _q4_k(b: Tensor) -> _Parts:
    return _Parts(_fields(b[:, 16:144].reshape(-1, 4, 32), 4).flatten(1), *_k_tables(b))


def _q5_k(b: Tensor) -> _Parts:
    low, high = _fields(b[:, 48:176].reshape(-1, 4, 32), 4).flatten(1), _fields(b[:, 16:48], 1).flatten(1)
    return _Parts(low | high << 4, *_k_tables(b))


def _q6_k(b: Tensor) -> _Parts:
    low = _fields(b[:, :128].reshape(-1, 2, 64), 4).flatten(1)
    high = _fields(b[:, 128:192].reshape(-1, 2, 32), 2).flatten(1)
    scales = b[:, 192:208].contiguous().view(torch.int8).float()
    return _Parts(low | high << 4, _half(b[:, 208:210]) * scales)


BLOCKS: Mapping[str, BlockType] = MappingProxyType(
    {
        "Q4_0": BlockType(4, 32, 18, 32, _q4_0),
        "Q4_1": BlockType(4, 32, 20, 32, _q4_1),
        "Q5_0": BlockType(5, 32, 22, 32, _q5_0),
        "Q5_1": BlockType(5, 32, 24, 32, _q5_1),
        "Q8_0": BlockType(8, 32, 34, 32, _q8_0),
        "Q2_K": BlockType(2, 256, 84, 16, _q2_k),
        "Q3_K": BlockType(3, 256, 110, 16, _q3_k),
        "Q4_K": BlockType(4, 256, 144, 32, _q4_k),
        "Q5_K": BlockType(5, 256, 176, 32, _q5_k),
        "Q6_K": BlockType(6, 256, 210, 16, _q6_k),
    }
)
"""The types that codes can hold, as GGUF calls them."""
