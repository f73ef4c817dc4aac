"""Rounding, packing and transposing on matrices worked by hand, and as properties; the operator that undoes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from dipc.ir import operators
from dipc.ir.codes import QuantizedTensor, pack, round_to_nearest, unpack
from dipc.ir.operator import Read, weight_name
from dipc.ir.weight_parts import parameters_per_entry
from dipc.ops.dequantize import reference

dequantize = torch.ops.dipc.dequantize


def values(q: QuantizedTensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix that codes stand for, by the operator."""
    result: Tensor = dequantize(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, dtype, q.minima)
    return result


def scales_of(q: QuantizedTensor) -> Tensor:
    """The scale of every element, float32 [R, C]."""
    rows, columns = q.shape
    return q.scales.float().repeat_interleave(q.group, q.axis)[:rows, :columns]


# --- By hand ---


def test_nibbles_are_packed_low_half_first() -> None:
    assert pack(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert unpack(torch.tensor([[0x21, 0x0F]], dtype=torch.uint8), 4).tolist() == [[1, 2, 15, 0]]
    with pytest.raises(ValueError, match="3 columns"):
        pack(torch.zeros(1, 3, dtype=torch.uint8), 4)


def test_two_bits_are_four_to_a_byte() -> None:
    assert pack(torch.tensor([[1, 2, 3, 0, 0, 1, 0, 0]], dtype=torch.uint8), 2).tolist() == [[0b00111001, 0b00000100]]
    assert unpack(torch.tensor([[0b00111001]], dtype=torch.uint8), 2).tolist() == [[1, 2, 3, 0]]
    with pytest.raises(ValueError, match=r"6 columns: four 2-bit codes share a byte, so .* a multiple of 4"):
        pack(torch.zeros(1, 6, dtype=torch.uint8), 2)


def test_three_bits_are_eight_to_three_bytes() -> None:
    # 0 1 2 3 4 5 6 7, the first in the lowest bits: 111 110 101 100 011 010 001 000.
    codes = torch.arange(8, dtype=torch.uint8)[None]
    packed = [0b10_001_000, 0b1_100_011_0, 0b111_110_10]
    assert pack(codes, 3).tolist() == [packed]
    assert unpack(torch.tensor([packed], dtype=torch.uint8), 3).tolist() == [list(range(8))]
    with pytest.raises(ValueError, match=r"12 columns: eight 3-bit codes share three bytes, so .* a multiple of 8"):
        pack(torch.zeros(1, 12, dtype=torch.uint8), 3)


def test_symmetric_2_bits() -> None:
    # The scale is 2 / -2: 2 -> 0, 1 -> 1, 0 -> 2, -1 -> 3, and -2 too, for there is no code 4.
    q = round_to_nearest(torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 0.4, 0.0, 0.0]]), 2, 8, 1)
    assert q.scales.tolist() == [[-1.0]] and q.codes.shape == (1, 2)
    assert unpack(q.codes, 2).tolist() == [[0, 1, 2, 3, 3, 2, 2, 2]]
    assert values(q).tolist() == [[2.0, 1.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0]]


def test_asymmetric_3_bits() -> None:
    # From -2 to 5 in seven steps of 1, zero at 2.
    q = round_to_nearest(torch.tensor([[-2.0, 5.0, 0.0, 1.4, 3.0, -1.0, 4.0, 2.0]]), 3, 8, 1, symmetric=False)
    assert q.zeros is not None and q.zeros.tolist() == [[2]] and q.codes.shape == (1, 3)
    assert values(q).tolist() == [[-2.0, 5.0, 0.0, 1.0, 3.0, -1.0, 4.0, 2.0]]


def test_symmetric_4_bits() -> None:
    # The largest magnitude is -8 and becomes code 0: scale 1, code = w + 8. Halves go to the even neighbour, and 7.9 of
    # the second group to 15, for its scale is 0.5 (from -4) and 7.9 / 0.5 is far above 7.
    weight = torch.tensor([[-8.0, 7.0, 0.0, 2.5], [4.0, 1.0, 0.0, -1.0]])
    q = round_to_nearest(weight, bits=4, group=4, axis=1)
    assert q.scales.tolist() == [[1.0], [-0.5]] and q.zeros is None and q.scales.dtype == torch.float16
    # Second row: the scale is 4 / -8 = -0.5, so 4 -> 0, 1 -> 6, 0 -> 8, -1 -> 10.
    assert unpack(q.codes, 4).tolist() == [[0, 15, 8, 10], [0, 6, 8, 10]]
    assert q.codes.tolist() == [[0 | 15 << 4, 8 | 10 << 4], [0 | 6 << 4, 8 | 10 << 4]]
    assert values(q).tolist() == [[-8.0, 7.0, 0.0, 2.0], [4.0, 1.0, 0.0, -1.0]]


def test_symmetric_4_bits_cannot_reach_the_positive_end_twice() -> None:
    # Scale -1 (from 8): -8 would be code 16, which there is not.
    assert values(round_to_nearest(torch.tensor([[8.0, -8.0]]), 4, 2, 1)).tolist() == [[8.0, -7.0]]


def test_asymmetric_4_bits() -> None:
    # From -3 to 12 in 15 steps of 1, zero at 3. The second group lies above zero, which its range includes: steps of 2.
    weight = torch.tensor([[-3.0, 12.0, 0.0, 4.6], [30.0, 15.0, 2.0, 1.1]])
    q = round_to_nearest(weight, bits=4, group=4, axis=1, symmetric=False)
    assert q.zeros is not None and q.zeros.tolist() == [[3], [0]] and q.zeros.dtype == torch.uint8
    assert q.scales.tolist() == [[1.0], [2.0]]
    assert unpack(q.codes, 4).tolist() == [[0, 15, 3, 8], [15, 8, 1, 1]]
    assert values(q).tolist() == [[-3.0, 12.0, 0.0, 5.0], [30.0, 16.0, 2.0, 2.0]]


def test_8_bits() -> None:
    weight = torch.tensor([[-128.0, 127.0, 3.4]])
    q = round_to_nearest(weight, bits=8, group=32, axis=1)
    assert (q.codes.tolist(), q.scales.tolist()) == ([[0, 255, 131]], [[1.0]])
    q = round_to_nearest(torch.tensor([[-55.0, 200.0, 0.0]]), bits=8, group=32, axis=1, symmetric=False)
    assert q.zeros is not None
    assert (q.codes.tolist(), q.zeros.tolist(), q.scales.tolist()) == ([[0, 255, 55]], [[55]], [[1.0]])


def test_groups_run_along_either_dim_and_the_last_may_be_short() -> None:
    weight = torch.tensor([[8.0, -16.0], [4.0, 2.0], [-80.0, 0.0]])
    q = round_to_nearest(weight, bits=4, group=2, axis=0)
    # Down the first column: (8, 4) and (-80); down the second: (-16, 2) and (0).
    assert q.scales.tolist() == [[-1.0, 2.0], [10.0, 0.0]]
    assert unpack(q.codes, 4).tolist() == [[0, 0], [4, 9], [0, 8]]
    assert values(q).tolist() == weight.tolist()


def test_zeros_stay_zero_and_tiny_groups_become_zero() -> None:
    for symmetric in (True, False):
        # A scale of 1e-9 / 8 is nothing in 16 bits.
        q = round_to_nearest(torch.tensor([[0.0, 0.0, 1e-9, -1e-9]]), 4, 2, 1, symmetric)
        assert values(q).tolist() == [[0.0] * 4] and bool(values(q).isfinite().all())


def test_scales_stay_finite() -> None:
    for symmetric in (True, False):
        assert bool(values(round_to_nearest(torch.tensor([[1e30, -3e38]]), 4, 2, 1, symmetric)).isfinite().all())


def test_codes_are_the_nearest_by_the_scale_as_it_is_stored() -> None:
    # 1000.3 / -8 = -125.0375 is -125.0625 in 16 bits, by which 62.53 is nearer to 0 than to the scale; by the scale
    # before it was stored it would be the other way round.
    q = round_to_nearest(torch.tensor([[1000.3, 62.525]]), 4, 2, 1)
    assert q.scales.tolist() == [[-125.0625]] and unpack(q.codes, 4).tolist() == [[0, 8]]


def test_transposing_by_hand() -> None:
    # [[1, 2, 3, 4], [5, 6, 7, 8]], groups of 2 along dim 1.
    codes = torch.tensor([[0x21, 0x43], [0x65, 0x87]], dtype=torch.uint8)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float16)
    turned = QuantizedTensor(codes, scales, None, 4, 2, 1).transposed()
    assert turned.codes.tolist() == [[0x51], [0x62], [0x73], [0x84]]
    assert turned.scales.tolist() == [[1.0, 3.0], [2.0, 4.0]] and turned.scales.is_contiguous()
    assert (turned.axis, turned.group, turned.shape) == (0, 2, (4, 2))


def test_an_odd_number_of_rows_of_4_bits_has_no_transpose() -> None:
    with pytest.raises(ValueError, match="3 columns"):
        round_to_nearest(torch.ones(3, 4), 4, 2, 1).transposed()
    assert round_to_nearest(torch.ones(3, 5), 8, 2, 1).transposed().shape == (5, 3)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="7 bits: codes have 2, 3, 4, 5, 6 or 8"):
        round_to_nearest(torch.ones(2, 8), 7, 2, 1)


def test_five_bits_are_eight_to_five_bytes_and_six_are_four_to_three() -> None:
    codes = torch.tensor([[31, 0, 1, 16, 2, 4, 8, 21]], dtype=torch.uint8)
    whole = sum(int(c) << 5 * i for i, c in enumerate(codes[0]))
    assert pack(codes, 5).tolist() == [list(whole.to_bytes(5, "little"))]
    assert unpack(pack(codes, 5), 5).tolist() == codes.tolist()
    # 111111 000001 100000 000011, the first in the lowest bits.
    codes = torch.tensor([[3, 32, 1, 63]], dtype=torch.uint8)
    assert pack(codes, 6).tolist() == [[0b00_000011, 0b0001_1000, 0b111111_00]]
    assert unpack(pack(codes, 6), 6).tolist() == codes.tolist()
    with pytest.raises(ValueError, match=r"12 columns: eight 5-bit codes share five bytes, so .* a multiple of 8"):
        pack(torch.zeros(1, 12, dtype=torch.uint8), 5)


# Groups of two along a row of four: 2 c - 1 and 0.5 c + 10.
MINIMA = QuantizedTensor(
    torch.tensor([[0x30, 0xF1]], dtype=torch.uint8),
    torch.tensor([[2.0, 0.5]], dtype=torch.float16),
    None,
    4,
    2,
    1,
    torch.tensor([[-1.0, 10.0]], dtype=torch.float16),
)


def test_codes_with_minima_count_from_them() -> None:
    assert values(MINIMA).tolist() == [[-1.0, 5.0, 10.5, 17.5]]
    turned = MINIMA.widened(8).transposed()
    assert values(turned).tolist() == [[-1.0], [5.0], [10.5], [17.5]]
    assert MINIMA.size_bytes == 2 + 2 * 2 + 2 * 2


def test_scales_and_minima_are_multiplied_and_added_in_float32_before_anything_is_rounded() -> None:
    # 16 bits cannot hold 1 + 2^-13; the sum is rounded once, to the dtype that is asked for.
    scales, minima = torch.tensor([[1 + 2**-13]]), torch.tensor([[2.0**-13]])
    codes = torch.tensor([[3, 2]], dtype=torch.uint8)
    q = QuantizedTensor(codes, scales, None, 8, 2, 1, minima)
    assert values(q).tolist() == [[3 + 4 * 2**-13, 2 + 3 * 2**-13]]
    assert values(q, torch.bfloat16).tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize(("scales", "minima"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_scales_and_minima_of_other_types_are_refused(scales: torch.dtype, minima: torch.dtype) -> None:
    codes, table = torch.zeros(1, 2, dtype=torch.uint8), torch.ones(1, 1)
    with pytest.raises(ValueError, match="float16 or float32, and minima too"):
        operators.OPERATORS.get("dequantize").fake(
            codes, table.to(scales), None, 8, 2, 1, torch.float32, table.to(minima)
        )


def test_zeros_beside_minima_are_refused() -> None:
    codes, table = torch.zeros(1, 2, dtype=torch.uint8), torch.ones(1, 1)
    with pytest.raises(ValueError, match="without zeros"):
        operators.OPERATORS.get("dequantize").fake(codes, table, table.byte(), 8, 2, 1, torch.float32, table)


def test_wider_codes_stand_for_the_same_values() -> None:
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    for bits, to in ((5, 8), (6, 8), (2, 4), (3, 4), (4, 4), (8, 8)):
        for symmetric in (True, False):
            q = round_to_nearest(weight, bits, 6, 1, symmetric)
            assert q.widened(to).bits == to and torch.equal(values(q.widened(to)), values(q))
    assert torch.equal(values(MINIMA.widened(8)), values(MINIMA))
    with pytest.raises(ValueError, match="8 bits do not fit 4"):
        round_to_nearest(weight, 8, 6, 1).widened(4)


def test_rows_are_taken_with_their_scales() -> None:
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    q = round_to_nearest(weight, 6, 5, 1, symmetric=False)
    order = torch.tensor([3, 0, 7])
    assert torch.equal(values(q.rows(order)), values(q)[order])
    assert torch.equal(values(q.rows(slice(2, 5))), values(q)[2:5])
    with pytest.raises(ValueError, match="share their scales"):
        q.transposed().rows(order)


# --- Properties ---

FORMS = st.tuples(st.sampled_from([2, 3, 4, 5, 6, 8]), st.integers(1, 9), st.sampled_from([0, 1]), st.booleans())


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """float32 [R, C] with rows of different magnitudes and some zeros; R and C multiples of 8."""
    rows, columns = (8 * draw(st.integers(1, 2)) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) < 0.1] = 0
    return weight * 10.0 ** draw(st.integers(-3, 3))


@given(matrices(), FORMS)
@settings(max_examples=80, deadline=None)
def test_a_value_is_off_by_half_a_step(weight: Tensor, form: tuple[Any, ...]) -> None:
    """At the ends of the range by a whole one, and by what the scale was rounded, once for every step."""
    q = round_to_nearest(weight, *form)
    off, step, codes = (values(q) - weight).abs(), scales_of(q).abs(), unpack(q.codes, q.bits)
    steps = 2**q.bits
    assert bool((off <= (1 + steps * 2**-11) * step + steps * 2**-25).all())
    inside = (codes > 0) & (codes < steps - 1)
    # A scale below half of the least 16-bit number is zero, and so is what it scales.
    assert bool((off[inside] <= 0.501 * step[inside] + steps * 2**-25).all())
    assert bool((values(q)[weight == 0] == 0).all())


@given(matrices(), st.sampled_from([2, 3, 4, 5, 6, 8]), st.integers(1, 9), st.sampled_from([0, 1]))
@settings(max_examples=60, deadline=None)
def test_what_is_rounded_already_stays_as_it_is(weight: Tensor, bits: int, group: int, axis: int) -> None:
    """The extreme of a symmetric group is a whole number of steps, so the scale is found again."""
    weight = weight.sign() * (1 + weight.abs().clamp(max=100))  # of magnitudes that a 16-bit scale holds to 11 bits
    once = values(round_to_nearest(weight, bits, group, axis))
    assert torch.equal(values(round_to_nearest(once, bits, group, axis)), once)


@given(matrices(), FORMS)
@settings(max_examples=60, deadline=None)
def test_transposing_is_exact_and_undoes_itself(weight: Tensor, form: tuple[Any, ...]) -> None:
    q = round_to_nearest(weight, *form)
    turned = q.transposed()
    assert torch.equal(values(turned), values(q).T)
    again = turned.transposed()
    assert torch.equal(again.codes, q.codes) and torch.equal(again.scales, q.scales) and again.axis == q.axis
    # The same as quantising the transposed matrix along its other dim.
    bits, group, axis, symmetric = form
    other = round_to_nearest(weight.T, bits, group, 1 - axis, symmetric)
    assert torch.equal(other.codes, turned.codes) and torch.equal(other.scales, turned.scales)


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 9), st.sampled_from([1, 2, 3, 4, 5, 6, 8]))
@settings(max_examples=60, deadline=None)
def test_packing_is_exact(seed: int, rows: int, eighth: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (rows, 8 * eighth), generator=generator, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits), codes) and packed.shape == (rows, eighth * bits)
    assert packed.dtype == torch.uint8 and packed.is_contiguous()
    assert pack(codes.to("meta"), bits).shape == packed.shape


@given(matrices(), FORMS)
@settings(max_examples=30, deadline=None)
def test_a_matrix_without_numbers_has_the_same_shapes(weight: Tensor, form: tuple[Any, ...]) -> None:
    real, bare = round_to_nearest(weight, *form), round_to_nearest(weight.to("meta"), *form)
    for a, b in ((real.codes, bare.codes), (real.scales, bare.scales), (real.zeros, bare.zeros)):
        assert (a is None and b is None) or (a.shape, a.dtype, "meta") == (b.shape, b.dtype, b.device.type)  # type: ignore[union-attr]


# --- The operator ---


def test_dequantize_by_hand() -> None:
    codes = torch.tensor([[0x21, 0x0F]], dtype=torch.uint8)  # 1, 2, 15, 0
    scales = torch.tensor([[0.5, 2.0]], dtype=torch.float16)
    zeros = torch.tensor([[1, 10]], dtype=torch.uint8)
    assert dequantize(codes, scales, zeros, 4, 2, 1, torch.float32).tolist() == [[0.0, 0.5, 10.0, -20.0]]
    assert dequantize(codes, scales, None, 4, 2, 1, torch.float32).tolist() == [[-3.5, -3.0, 14.0, -16.0]]
    assert dequantize(codes, scales, None, 4, 2, 1, torch.bfloat16).dtype == torch.bfloat16


def test_dequantize_of_8_bits_along_dim_0() -> None:
    codes = torch.tensor([[128, 0], [129, 255], [130, 128]], dtype=torch.uint8)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float16)
    got = dequantize(codes, scales, None, 8, 2, 0, torch.float32)
    assert got.tolist() == [[0.0, -256.0], [1.0, 254.0], [6.0, 0.0]]


def test_a_group_larger_than_the_matrix_takes_no_more_memory() -> None:
    codes, scales = torch.zeros(1, 2, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.float16)
    assert reference(codes, scales, None, 8, 2**40, 1, torch.float32).shape == (1, 2)


@pytest.mark.parametrize(
    "args",
    [
        (torch.uint8, (2, 4), (2, 2), 3, 2, 1),
        (torch.uint8, (2, 4), (2, 2), 8, 0, 1),
        (torch.uint8, (2, 4), (2, 2), 8, 2, 2),
        (torch.uint8, (2, 4), (2, 2), 4, 2, 1),  # eight columns have four groups
        (torch.uint8, (2, 4), (1, 4), 8, 2, 1),
        (torch.int8, (2, 4), (2, 2), 8, 2, 1),
        (torch.uint8, (4,), (2,), 8, 2, 0),
    ],
)
def test_what_does_not_fit_has_no_shape(args: tuple[Any, ...]) -> None:
    dtype, shape, groups, *form = args
    codes = torch.empty(shape, dtype=dtype, device="meta")
    scales = torch.empty(groups, dtype=torch.float16, device="meta")
    with pytest.raises(ValueError, match="dequantize"):
        dequantize(codes, scales, None, *form, torch.float32)


# --- What is read of a quantised weight ---


def quantized_graph(axis: int, zeros: bool = True) -> tuple[fx.Graph, fx.Node, fx.Node, fx.Node]:
    """A graph with an input, a mask and a dequantised weight."""
    graph = fx.Graph()
    x, mask = graph.placeholder("x"), graph.placeholder("mask")
    codes, scales = graph.get_attr("w.codes"), graph.get_attr("w.scales")
    zero = graph.get_attr("w.zeros") if zeros else None
    weight = graph.call_function(dequantize.default, (codes, scales, zero, 4, 32, axis, torch.float32))
    return graph, x, mask, weight


TABLES = ("w.scales", "w.zeros")


@pytest.mark.parametrize(
    ("operator", "axis", "per_unit", "shared"),
    [
        ("gather_linear", 0, TABLES, ()),  # a column, and groups down the column
        ("gather_linear", 1, (), TABLES),
        ("row_linear", 0, (), TABLES),
        ("row_linear", 1, TABLES, ()),
    ],
)
def test_scales_along_a_unit_travel_with_it(
    operator: str, axis: int, per_unit: tuple[str, ...], shared: tuple[str, ...]
) -> None:
    graph, x, mask, weight = quantized_graph(axis)
    node = graph.call_function(operators.target(operator), (x, mask, weight))  # type: ignore[arg-type]
    unit = {"gather_linear": "columns", "row_linear": "rows"}[operator]
    found = operators.OPERATORS.get(operator.replace("_", "-")).traffic(node)
    assert found == (Read("w.codes", unit, mask, per_unit, shared),)  # type: ignore[arg-type]
    assert weight_name(weight) == "w.codes"


def test_a_dense_product_reads_scales_and_all() -> None:
    for axis in (0, 1):
        graph, x, _, weight = quantized_graph(axis, zeros=False)
        node = graph.call_function(operators.target("glu"), (x, weight, weight, weight))  # type: ignore[arg-type]
        assert operators.OPERATORS.get("glu").traffic(node) == (Read("w.codes", "all", None, ("w.scales",)),) * 3


def test_parameters_are_counted_by_what_codes_stand_for() -> None:
    assert parameters_per_entry(quantized_graph(0)[0]) == {"w.codes": 2, "w.scales": 0, "w.zeros": 0}
    graph = fx.Graph()
    codes, scales = graph.get_attr("w.codes"), graph.get_attr("w.scales")
    graph.call_function(dequantize.default, (codes, scales, None, 8, 32, 0, torch.float32))
    assert parameters_per_entry(graph) == {"w.codes": 1, "w.scales": 0}
