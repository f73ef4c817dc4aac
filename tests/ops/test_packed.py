"""The packed products: by hand, against the products they stand for, and the native kernels against the references."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dipc
from dipc import native
from dipc.ops import _packed as packed
from dipc.ops import gather_linear, packed_gather_glu, packed_gather_linear, packed_row_linear, row_linear
from dipc.ops._packed import KERNEL_TOKENS, PackedMatrix
from kit.runs import relative

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")

NAN, INF = float("nan"), float("inf")
PRODUCTS: tuple[Any, ...] = (packed_gather_linear, packed_row_linear, packed_gather_glu)


def both(product: Any) -> list[Any]:
    """The reference of a product and what torch calls."""
    return [product.OPERATOR.reference, product.OPERATOR.target]


def by_hand() -> list[PackedMatrix]:
    """[[2, -4], [6, 8], [-10, 12]] as floats and as codes: 2 times (code - zero)."""
    values = torch.tensor([[2.0, -4.0], [6.0, 8.0], [-10.0, 12.0]])
    middle = torch.tensor([[1, -2], [3, 4], [-5, 6]])
    nibbles = (middle + 8).to(torch.uint8)
    along, across = torch.full((3, 1), 2.0).half(), torch.full((1, 2), 2.0).half()
    zeros = torch.full((1, 2), 100).byte()
    return [
        PackedMatrix(values),
        PackedMatrix(values.bfloat16()),
        PackedMatrix((middle + 128).byte(), along, None, 8, 2, 1),
        PackedMatrix((middle + 100).byte(), across, zeros, 8, 4, 0),
        PackedMatrix(nibbles[:, :1] | nibbles[:, 1:] << 4, along, None, 4, 2, 1),
        PackedMatrix(nibbles[:, :1] | nibbles[:, 1:] << 4, across, None, 4, 4, 0),
        PackedMatrix((middle + 10).byte(), across, None, 8, 4, 0, torch.full((1, 2), -20.0).half()),
        PackedMatrix((middle + 7).byte(), along.float(), None, 8, 2, 1, torch.full((3, 1), -14.0)),
    ]


def options(matrix: PackedMatrix, *activation: str) -> tuple[Any, ...]:
    """The arguments of a product that say how its matrix is stored."""
    return (*matrix.format, *activation, matrix.minima)


@pytest.mark.smoke
@pytest.mark.parametrize("matrix", by_hand())
def test_products_by_hand(matrix: PackedMatrix) -> None:
    x, mask = torch.tensor([[[1.0, NAN, 3.0]]]), torch.tensor([[[True, False, True]]])
    close: Any = pytest.approx
    for gather in both(packed_gather_linear):
        # 1 [2, -4] + 3 [-10, 12]; unit 1 is not read.
        given = (x, mask, *matrix.tensors)
        assert gather(*given, None, *options(matrix))[0, 0].tolist() == close([-28, 32], rel=1e-3)
        assert gather(*given, torch.tensor([0.5, 1.0]), *options(matrix))[0, 0].tolist() == close([-27.5, 33], rel=1e-3)
    for row in both(packed_row_linear):
        given = (torch.tensor([[[1.0, 2.0]]]), mask, *matrix.tensors)
        assert row(*given, None, *options(matrix))[0, 0].tolist() == close([-6, 0, 14], rel=1e-3)
        assert row(*given, torch.ones(3), *options(matrix))[0, 0].tolist() == close([-5, 0, 15], rel=1e-3)
    for glu in both(packed_gather_glu):
        # A unit is one gate and one up value: relu(-28 + 30) (32 + 1).
        biases = (torch.tensor([30.0]), torch.tensor([1.0]))
        assert glu(x, mask, *matrix.tensors, None, None, *options(matrix, "relu"))[0, 0].tolist() == [0]
        got = glu(x, mask, *matrix.tensors, *biases, *options(matrix, "relu"))[0, 0].tolist()
        assert got == close([66], abs=0.5)


@pytest.mark.parametrize("tokens", [1, KERNEL_TOKENS, KERNEL_TOKENS + 1])
def test_packed_products_are_the_ones_that_they_stand_for(tokens: int) -> None:
    """In every format, for as many tokens as the kernels take and for more."""
    generator = torch.Generator().manual_seed(0)
    x, wide = torch.randn(1, tokens, 33, generator=generator), torch.randn(1, tokens, 36, generator=generator)
    mask = torch.rand(1, tokens, 33, generator=generator) < 0.5
    bias, bias_units = torch.randn(36, generator=generator), torch.randn(33, generator=generator)
    made = packed.example_matrices(generator, 33, 36) + packed.example_minima(generator, 33, 36)
    for matrix in made:
        values, stored = matrix.values(), matrix.tensors
        z = gather_linear.reference(x, mask, values.T, bias)
        hidden = torch.nn.functional.silu(z[..., :18]) * z[..., 18:]
        rows = row_linear.reference(wide, mask, values, bias_units)
        biases = (bias[:18], bias[18:])
        p = torch.ops.dipc
        for got, meant in (
            (p.packed_gather_linear(x, mask, *stored, bias, *options(matrix)), z),
            (p.packed_gather_glu(x, mask, *stored, *biases, *options(matrix, "silu")), hidden),
            (p.packed_row_linear(wide, mask, *stored, bias_units, *options(matrix)), rows),
        ):
            assert relative(got, meant) < (1e-3 if matrix.bits else 1e-5)


def cases(draw: st.DrawFn) -> tuple[PackedMatrix, Tensor, Tensor, int]:
    """A matrix [U, N] in any format, a mask [T, U], a seed for activations."""
    units, pairs = draw(st.integers(1, 150)), draw(st.integers(1, 90))
    bits, axis = draw(st.sampled_from([0, 4, 8])), draw(st.sampled_from([0, 1]))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    if bits == 0:
        odd = draw(st.booleans()) and pairs > 1
        dtype = draw(st.sampled_from(packed.FLOATS))
        matrix = PackedMatrix(torch.randn(units, 2 * pairs - odd, generator=generator).to(dtype))
    else:
        group = draw(st.sampled_from([1, 3, 16, 32, 64, 128]))
        groups = [units, 2 * pairs]
        groups[axis] = -(-groups[axis] // group)
        codes = torch.randint(256, (units, 2 * pairs * bits // 8), generator=generator).byte()
        scales = (torch.rand(groups, generator=generator) + 0.1).half() / 2**bits
        offsets = draw(st.sampled_from(["zeros", "minima", "none"]))
        zeros = torch.randint(2**bits, groups, generator=generator).byte() if offsets == "zeros" else None
        scales = scales.float() if draw(st.booleans()) else scales
        minima = torch.randn(groups, generator=generator).to(scales.dtype) if offsets == "minima" else None
        matrix = PackedMatrix(codes, scales, zeros, bits, group, axis, minima)
    density = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    mask = torch.rand(draw(st.integers(1, 3)), units, generator=generator) < density
    return matrix, mask, torch.randn(mask.shape, generator=generator), seed


@needs_library
@given(st.composite(cases)(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_native_products_are_the_reference_on_any_shape(case: tuple[Any, ...], with_bias: bool) -> None:
    matrix, mask, x, seed = case
    units, length = matrix.shape
    generator = torch.Generator().manual_seed(seed + 1)

    def bias(width: int) -> Tensor | None:
        return torch.randn(width, generator=generator) if with_bias else None

    wide = torch.randn(len(mask), length, generator=generator)
    calls: list[tuple[Any, tuple[Any, ...], float]] = [
        (packed_gather_linear, (x, mask, *matrix.tensors, bias(length), *options(matrix)), units),
        (packed_row_linear, (wide, mask, *matrix.tensors, bias(units), *options(matrix)), length),
    ]
    if length % 2 == 0:
        biases = (bias(length // 2), bias(length // 2))
        calls.append((packed_gather_glu, (x, mask, *matrix.tensors, *biases, *options(matrix, "silu")), units))
    largest = float(matrix.values().abs().max())
    for product, args, terms in calls:
        meant, got = product.OPERATOR.reference(*args), product.OPERATOR.kernel(*args)
        # Rounding to 15 bits: each term is off by up to 2^-15 of the largest, and errors add like a random walk.
        linear = 1.0 if product is not packed_gather_glu else 1 + float(meant.abs().max()) ** 0.5
        allowed = (2e-4 if matrix.bits else 2e-6) * (1 + largest * terms**0.5) * linear * 4
        torch.testing.assert_close(got, meant, rtol=0, atol=allowed)


@pytest.mark.parametrize("matrix", by_hand())
@pytest.mark.parametrize("product", PRODUCTS)
def test_no_unit_kept_gives_the_bias(product: Any, matrix: PackedMatrix) -> None:
    x = torch.full((1, 1, 2 if product is packed_row_linear else 3), NAN)
    mask = torch.zeros(1, 1, 3, dtype=torch.bool)
    bias = torch.tensor([3.0, 7.0]) if product is not packed_gather_glu else torch.tensor([3.0])
    for function in both(product):
        if product is packed_row_linear:
            got = function(x, mask, *matrix.tensors, torch.ones(3), *options(matrix))
            assert got.tolist() == [[[0, 0, 0]]]
        elif product is packed_gather_linear:
            assert function(x, mask, *matrix.tensors, bias, *options(matrix)).tolist() == [[[3, 7]]]
        else:
            assert function(x, mask, *matrix.tensors, bias, bias, *options(matrix, "relu")).tolist() == [[[9]]]


@pytest.mark.parametrize("matrix", by_hand())
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_stays_out_where_it_is_masked_and_comes_through_where_it_is_kept(
    matrix: PackedMatrix, bad: float
) -> None:
    x = torch.tensor([[[1.0, bad, 3.0]]])
    out, kept = torch.tensor([[[True, False, True]]]), torch.tensor([[[True, True, True]]])
    expected = x[0, 0] @ matrix.values()
    for gather in both(packed_gather_linear):
        assert gather(x, out, *matrix.tensors, None, *options(matrix)).isfinite().all()
        got = gather(x, kept, *matrix.tensors, None, *options(matrix))[0, 0]
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3, equal_nan=True)
    wide = torch.tensor([[[1.0, bad]]])
    rows = matrix.values() @ wide[0, 0]
    for row in both(packed_row_linear):
        got = row(wide, out, *matrix.tensors, None, *options(matrix))[0, 0]
        torch.testing.assert_close(got, torch.where(out[0, 0], rows, 0), rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("product", PRODUCTS)
def test_shape_rule_refuses_what_does_not_fit(product: Any) -> None:
    good = next(
        a for a in product.examples(torch.Generator().manual_seed(0), 2, 5) if len(a) > 8 and a[2].dtype == torch.uint8
    )

    def meta(args: tuple[Any, ...]) -> list[Any]:
        return [a.to("meta") if isinstance(a, Tensor) else a for a in args]

    product.OPERATOR.fake(*meta(good))
    for position, wrong in (
        (0, good[0][..., 1:]),
        (1, good[1][..., 1:]),
        (2, good[2][1:]),
        (3, good[3][:, 1:]),
        (3, None),
        (4, torch.zeros(1, 1).byte()),
        (5, torch.zeros(2)),
    ):
        args = meta(good)
        args[position] = None if wrong is None else wrong.to("meta")
        with pytest.raises(ValueError, match="fit"):
            product.OPERATOR.fake(*args)


def test_transposition_is_exact_in_every_format() -> None:
    generator = torch.Generator().manual_seed(0)
    for matrix in packed.example_matrices(generator, 34, 70) + packed.example_minima(generator, 34, 70):
        turned = matrix.transposed()
        assert turned.shape == (70, 34) and turned.units.is_contiguous()
        assert torch.equal(turned.values(), matrix.values().T)
        assert torch.equal(turned.transposed().units, matrix.units)
    with pytest.raises(ValueError, match="even"):
        packed.example_matrices(torch.Generator().manual_seed(0), 33, 70)[-1].transposed()


def test_bundles_hold_both_matrices_or_say_that_they_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    made = packed.example_matrices(generator, 6, 32)
    for matrix in made + packed.example_minima(generator, 6, 32):
        bundle = matrix.concat(matrix)
        assert bundle is not None
        assert torch.equal(bundle.values(), torch.cat([matrix.values()] * 2, 1))
    assert made[0].concat(made[1]) is None and made[0].concat(made[-1]) is None
    # A group of 32 values that begins in one matrix of 36 would end in the other.
    cut = packed.example_matrices(torch.Generator().manual_seed(0), 6, 36)
    assert [m.concat(m) is None for m in cut] == [m.axis == 1 and m.group == 32 for m in cut]


# --- The wrappers ---


def buffer(t: Tensor) -> native.Buffer:
    return native.Buffer(t.data_ptr(), str(t.dtype).removeprefix("torch."), tuple(t.shape), t)


def test_the_wrappers_refuse_nonsense() -> None:
    floats, codes = buffer(torch.zeros(4, 6)), buffer(torch.zeros(4, 3).byte())
    scales, zeros = buffer(torch.zeros(4, 1).half()), buffer(torch.zeros(4, 1).byte())
    assert native.UnitMatrix(codes, scales, zeros, 4, 32, 1).length == 6
    for arguments, reason in (
        ((buffer(torch.zeros(4)),), "no unit-major matrix"),
        ((buffer(torch.zeros(4, 6).double()),), "float64"),
        ((floats, scales), "no scales"),
        ((floats, None, None, 3), "3 bits"),
        ((codes, None, None, 4, 32, 1), "need scales"),
        ((codes, scales, zeros, 4, 0, 1), "groups of 0"),
        ((codes, scales, zeros, 4, 32, 2), "dim 2"),
        ((codes, scales, zeros, 4, 2, 1), r"expected float16\[4, 3\]"),
        ((codes, scales, scales, 4, 32, 1), "expected uint8"),
        ((floats, scales, zeros, 4, 32, 1), "expected uint8"),
    ):
        with pytest.raises(ValueError, match=reason):
            native.UnitMatrix(*arguments)


@needs_library
def test_the_products_refuse_nonsense() -> None:
    matrix = native.UnitMatrix(buffer(torch.zeros(4, 6)))
    x, mask = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.bool_)
    assert native.gather_linear(matrix, x, mask).shape == (2, 6)
    assert native.gather_linear(matrix, x[:0], mask[:0]).shape == (0, 6)
    for arguments in (
        (matrix, x.astype(np.float64), mask),
        (matrix, x[:, 1:], mask),
        (matrix, x[0], mask[0]),
        (matrix, x, mask[:1]),
        (matrix, x, mask.astype(np.uint8)),
        (matrix, x, mask, np.zeros(5, np.float32)),
    ):
        with pytest.raises(ValueError, match="expected"):
            native.gather_linear(*arguments)
    with pytest.raises(ValueError, match="swish"):
        native.gather_glu(matrix, x, mask, None, "swish")
    with pytest.raises(ValueError, match="status"):
        native.set_threads(-1)
    assert native.instruction_set() in ("avx512-vnni", "avx2", "portable")


COMPARE = """
import torch
from dipc import native
from dipc.ir.operators import OPERATORS
generator = torch.Generator().manual_seed(0)
for name in ("packed-gather-linear", "packed-row-linear", "packed-gather-glu"):
    operator = OPERATORS.get(name)
    for units in (1, 31, 200):
        for args in operator.examples(generator, 2, units):
            meant, got = operator.reference(*args).float(), operator.kernel(*args).float()
            allowed = max(operator.tolerance, torch.finfo(args[0].dtype).eps) * max(1.0, float(meant.abs().max()))
            assert float((meant - got).abs().max()) <= allowed, (name, units, args[2].dtype, args[-4:])
print(native.instruction_set())
"""

EDGES = """
import torch
from dipc import native
from dipc.ops import packed_gather_glu, packed_gather_linear, packed_row_linear
from dipc.ops._packed import PackedMatrix

generator = torch.Generator().manual_seed(0)
x, wide = torch.randn(1, 64, generator=generator), torch.randn(1, 288, generator=generator)
mask = torch.ones(1, 64).bool()

def products(matrix):
    gather = (x, mask, *matrix.tensors, None, *matrix.format, matrix.minima)
    row = (wide[:, : matrix.shape[1]], mask, *matrix.tensors, None, *matrix.format, matrix.minima)
    return [(packed_gather_linear, gather), (packed_row_linear, row)]

for bits, axis in [(4, 0), (4, 1), (8, 0), (8, 1)]:
    empty = PackedMatrix(torch.zeros(64, 0).byte(), torch.zeros(2 if axis == 0 else 64, 0).half(), None, bits, 32, axis)
    assert packed_gather_linear.OPERATOR.kernel(x, mask, *empty.tensors, None, *empty.format).shape == (1, 0)
    assert packed_gather_glu.OPERATOR.kernel(x, mask, *empty.tensors, None, None, *empty.format).shape == (1, 0)

    codes = torch.randint(256, (64, 288 * bits // 8), generator=generator).byte()
    whole = torch.rand((1, 288) if axis == 0 else (64, 1), generator=generator).half()
    groups = [PackedMatrix(codes, whole, None, bits, group, axis) for group in (288, 2**40, 2**63 - 128)]
    for group in groups[1:]:
        for (product, args), (_, same) in zip(products(group), products(groups[0]), strict=True):
            got, meant = product.OPERATOR.kernel(*args), product.OPERATOR.reference(*same)
            torch.testing.assert_close(got, meant, rtol=1e-3, atol=1e-2 * 2**bits)

    for bad in (float("nan"), float("inf"), -float("inf")):
        scales = torch.rand((2, 288) if axis == 0 else (64, 9), generator=generator).half()
        scales[1, 4] = bad
        for product, args in products(PackedMatrix(codes, scales, None, bits, 32, axis)):
            got, meant = product.OPERATOR.kernel(*args), product.OPERATOR.reference(*args)
            assert torch.equal(got.isfinite(), meant.isfinite()), (product, bits, axis, bad)
            kept = meant.isfinite()
            torch.testing.assert_close(got[kept], meant[kept], rtol=1e-3, atol=1e-2 * 2**bits)
print(native.instruction_set())
"""


def run_on(isa: str | None, script: str) -> str:
    """What a script prints on an instruction set; None leaves the choice to the library."""
    settings = {k: v for k, v in os.environ.items() if k != "DIPC_ISA"} | ({} if isa is None else {"DIPC_ISA": isa})
    settings |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(dipc.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", script], env=settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@needs_library
@pytest.mark.parametrize("script", [COMPARE, EDGES], ids=["compare", "edges"])
@pytest.mark.parametrize("isa", ["avx512-vnni", "avx2", "portable"])
def test_every_instruction_set_gives_the_reference(isa: str, script: str) -> None:
    """One that the processor lacks falls to the next lower one."""
    order = ["avx512-vnni", "avx2", "portable"]
    assert order.index(run_on(isa, script)) >= order.index(isa)


@needs_library
def test_an_empty_choice_of_instructions_is_none() -> None:
    script = "from dipc import native; print(native.instruction_set())"
    assert run_on("", script) == run_on(None, script)
