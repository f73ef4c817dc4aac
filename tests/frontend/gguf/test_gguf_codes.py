"""Blocks of GGUF as codes: worked by hand, and bit for bit what the `gguf` package makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dipc.frontend.gguf.codes import BLOCKS, codes_of_blocks
from dipc.ir.codes import QuantizedTensor, unpack
from dipc.ops.dequantize import reference


def values(q: QuantizedTensor) -> Tensor:
    return reference(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32, q.minima)


def half(*numbers: float) -> bytes:
    return np.array(numbers, np.float16).tobytes()


def row(*parts: bytes) -> Tensor:
    return torch.tensor(list(b"".join(parts)), dtype=torch.uint8)[None]


NIBBLES = bytes([0x10, 0xF2, *[0x88] * 14])  # values 0 and 1 are 0 and 2, 16 and 17 are 1 and 15, all others 8


def test_q4_0_by_hand() -> None:
    q = codes_of_blocks(row(half(0.5), NIBBLES), "Q4_0")
    codes = unpack(q.codes, 4)[0].tolist()
    assert codes == [0, 2, *[8] * 14, 1, 15, *[8] * 14]
    assert values(q)[0].tolist() == [(c - 8) / 2 for c in codes]
    assert (q.scales.dtype, q.scales.shape, q.minima, q.zeros) == (torch.float16, (1, 1), None, None)


def test_q4_1_by_hand() -> None:
    q = codes_of_blocks(row(half(0.5, -3), NIBBLES), "Q4_1")
    assert values(q)[0].tolist() == [c / 2 - 3 for c in [0, 2, *[8] * 14, 1, 15, *[8] * 14]]
    assert q.minima is not None and q.minima.dtype == torch.float16 and q.size_bytes == 20


def test_q5_by_hand() -> None:
    # The fifth bit of values 0, 9 and 31.
    high = bytes([1, 2, 0, 128])
    codes = [16, 2, *[8] * 7, 24, *[8] * 6, 1, 15, *[8] * 13, 24]
    q = codes_of_blocks(row(half(2), high, NIBBLES), "Q5_0")
    assert unpack(q.codes, 5)[0].tolist() == codes
    assert values(q)[0].tolist() == [2.0 * (c - 16) for c in codes]
    q = codes_of_blocks(row(half(2, 0.25), high, NIBBLES), "Q5_1")
    assert values(q)[0].tolist() == [2.0 * c + 0.25 for c in codes]
    assert q.codes.shape == (1, 20)


def test_q8_0_by_hand() -> None:
    q = codes_of_blocks(row(half(0.25), bytes([0, 1, 127, 128, 255, *[0] * 27])), "Q8_0")
    assert values(q)[0, :5].tolist() == [0, 0.25, 31.75, -32, -0.25]


def test_q4_k_by_hand() -> None:
    # Scales 1..4 in the low six bits of the first four bytes, and 33 = 2 * 16 + 1 for the fifth: its low half lies in
    # byte 8, its high bits at the top of byte 0. Minima are 5 for the first group and 0 else.
    tables = bytes([1 | 2 << 6, 2, 3, 4, 5, 0, 0, 0, 1, 0, 0, 0])
    q = codes_of_blocks(row(half(0.5, 2), tables, bytes([0x21] * 128)), "Q4_K")
    assert q.scales.tolist() == [[0.5, 1, 1.5, 2, 16.5, 0, 0, 0]] and q.minima is not None
    assert q.minima.tolist() == [[-10.0, *[0] * 7]]
    # Of 32 bytes the low halves are one group, the high ones the next.
    assert values(q)[0, ::32].tolist() == [0.5 * 1 - 10, 1 * 2, 1.5 * 1, 2 * 2, 16.5 * 1, 0, 0, 0]


def test_q6_k_by_hand() -> None:
    scales = np.array([*range(-8, 8)], np.int8).tobytes()
    q = codes_of_blocks(row(bytes([0x3F] * 128), bytes([0b11_10_01_00] * 64), scales, half(0.5)), "Q6_K")
    # Low halves 15 of values 0 to 63, 3 of 64 to 127; two more bits, 0 to 3, for every 32 in turn.
    assert unpack(q.codes, 6)[0, :128:32].tolist() == [15, 16 + 15, 32 + 3, 48 + 3]
    assert values(q)[0, :128:32].tolist() == [-4 * (15 - 32), -3 * (31 - 32), -2 * (35 - 32), -1 * (51 - 32)]
    assert q.group == 16 and q.scales.shape == (1, 16)


@pytest.mark.parametrize("kind", BLOCKS)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 3), blocks=st.integers(1, 3))
@settings(max_examples=8, deadline=None)
def test_any_bytes_are_bit_for_bit_what_gguf_makes_of_them(kind: str, seed: int, rows: int, blocks: int) -> None:
    gguf = pytest.importorskip("gguf")
    size, per_block, _ = (BLOCKS[kind].size_bytes, BLOCKS[kind].values, None)
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == (per_block, size)
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * size), np.uint8)
    with np.errstate(all="ignore"):
        meant = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    got = values(codes_of_blocks(torch.from_numpy(data), kind)).numpy()
    assert got.shape == (rows, blocks * per_block)
    finite = np.isfinite(meant)
    assert np.array_equal(got.view(np.uint32)[finite], meant.view(np.uint32)[finite])
    assert not np.isfinite(got[~finite]).any()


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q8_0"])
def test_rounded_weights_keep_scales_of_16_bits(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    weight = np.random.default_rng(0).standard_normal((6, 96), np.float32)
    q = codes_of_blocks(torch.from_numpy(gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])), kind)
    assert q.scales.dtype == torch.float16
    assert 8 * q.size_bytes / weight.size == BLOCKS[kind].stored_bits
    assert np.abs(values(q).numpy() - weight).max() < 0.2


def test_rows_of_no_whole_number_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="Q4_1 has rows of blocks of 20 bytes"):
        codes_of_blocks(torch.zeros(2, 21, dtype=torch.uint8), "Q4_1")
