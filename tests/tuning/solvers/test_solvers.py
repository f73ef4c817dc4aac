"""GPTQ and SparseGPT against the surgeon's formula with explicit inverses, exhaustive search, and hand arithmetic."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dipc.ir.codes import CodeFormat, QuantizedTensor, in_groups, nearest, round_to_nearest, unpack
from dipc.ir.codes import grid as grid_of
from dipc.ops.dequantize import reference
from dipc.tuning.solvers.gptq import gptq
from dipc.tuning.solvers.hessian import hessian_of, inverse_factor, weighted_error
from dipc.tuning.solvers.sparsegpt import kept_count, largest, sparsegpt


def problem(rows: int, columns: int, seed: int = 0, tokens: int = 64, own: float = 0.0) -> tuple[Tensor, Tensor]:
    """A weight [O, I] and the Hessian of correlated inputs, float64; the less so, the more each has of its `own`."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    mixing += own * torch.eye(columns, dtype=torch.float64)
    x = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mixing
    x *= torch.rand(columns, generator=generator, dtype=torch.float64) + 0.1
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x.T @ x


def values(q: QuantizedTensor) -> Tensor:
    return reference(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32).double()


def damped(hessian: Tensor, damping: float = 0.01) -> Tensor:
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)


def surgeon(weight: Tensor, hessian: Tensor, order: list[int], settle: Any) -> Tensor:
    """Optimal brain surgeon, column by column, with the inverse of what remains of H taken anew each time.

    When column j settles at q, the free columns F move by -(w_j - q) / [H_F^-1]_jj [H_F^-1]_:,j.
    """
    free, weight = list(order), weight.clone()
    while free:
        j = free[0]
        inverse = torch.linalg.inv(hessian[free][:, free])
        error = weight[:, j] - settle(weight, j)
        weight[:, free] -= torch.outer(error / inverse[0, 0], inverse[0])
        free = free[1:]
    return weight


# --- The Hessian ---


def test_the_factor_is_of_the_inverse_of_what_remains() -> None:
    _, hessian = problem(1, 6)
    upper = inverse_factor(hessian, 0.01)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped(hessian)))
    for j in range(6):
        rest = torch.linalg.inv(damped(hessian)[j:, j:])
        torch.testing.assert_close(upper[j, j:] / upper[j, j], rest[0] / rest[0, 0])
        torch.testing.assert_close(upper[j, j] ** 2, rest[0, 0])


def test_a_hessian_in_pieces_is_that_of_all_inputs() -> None:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = x.reshape(10, 3).T @ x.reshape(10, 3)
    torch.testing.assert_close(hessian_of([x[:1], x[1:]]), expected)
    assert hessian_of([x.bfloat16()]).dtype == torch.float32
    with pytest.raises(ValueError, match="no inputs"):
        hessian_of([])


def test_error_of_the_outputs_by_hand() -> None:
    x, change = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    # Outputs change by (1 - 2, 2) and (-1, 0): 1 + 4 + 1.
    assert weighted_error(change, x.T @ x) == 6 == float(((x @ change.T) ** 2).sum())


def test_fewer_tokens_than_inputs_dead_inputs_and_none_at_all() -> None:
    weight, hessian = problem(4, 8, tokens=3)
    hessian[2], hessian[:, 2] = 0, 0
    for h in (hessian, hessian.float(), torch.zeros(8, 8), torch.ones(8, 8)):
        assert bool(inverse_factor(h).isfinite().all())
        assert bool(values(gptq(weight, h, CodeFormat(4, 4, 1))).isfinite().all())
        assert bool(sparsegpt(weight, h, 0.5)[0].isfinite().all())
    with pytest.raises(ValueError, match="not finite"):
        inverse_factor(hessian * float("nan"))
    with pytest.raises(ValueError, match="not positive definite"):
        inverse_factor(torch.diag(torch.tensor([1.0, -9.0, 9.0])))


# --- GPTQ ---

FORMS = [(b, g, a, s) for b, g, a, s in itertools.product((2, 3, 4), (4, 8), (0, 1), (True, False))]


def by_the_surgeon(
    weight: Tensor, hessian: Tensor, bits: int, group: int, axis: int, symmetric: bool, order: list[int], fixed: bool
) -> Tensor:
    """The weight that codes stand for, each column's grid found as the papers say."""
    grids: dict[int, tuple[Tensor, Tensor]] = {}

    def settle(free: Tensor, j: int) -> Tensor:
        if axis == 0:
            scales, zeros = (
                t.repeat_interleave(group)[: len(free)] for t in _grid(in_groups(free[:, j].float(), group))
            )
        else:
            start = j // group * group
            if start not in grids:
                of = weight if fixed else free
                grids[start] = tuple(t[:, 0] for t in _grid(in_groups(of[:, start : start + group].float(), group)))  # type: ignore[assignment]
            scales, zeros = grids[start]
        codes = nearest(free[:, j], scales, zeros, bits)
        return (codes - zeros).double() * scales.double()

    def _grid(grouped: Tensor) -> tuple[Tensor, Tensor]:
        return grid_of(grouped, bits, symmetric)

    return surgeon(weight, damped(hessian), order, settle)


@pytest.mark.parametrize(("bits", "group", "axis", "symmetric"), FORMS)
def test_gptq_is_the_surgeon_column_by_column(bits: int, group: int, axis: int, symmetric: bool) -> None:
    weight, hessian = problem(8, 16)
    expected = by_the_surgeon(weight, hessian, bits, group, axis, symmetric, list(range(16)), fixed=False)
    for block in (1, 3, 16, 128):
        found = values(gptq(weight, hessian, CodeFormat(bits, group, axis, symmetric), block=block))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_order_of_activity_is_the_surgeon_in_that_order(axis: int) -> None:
    weight, hessian = problem(8, 16)
    order = hessian.diagonal().argsort(descending=True).tolist()
    assert order != sorted(order)
    expected = by_the_surgeon(weight, hessian, 3, 4, axis, False, order, fixed=True)
    for block in (1, 6, 128):
        found = values(gptq(weight, hessian, CodeFormat(3, 4, axis, False), act_order=True, block=block))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("bits", "group", "axis", "symmetric"), FORMS)
def test_without_correlation_gptq_rounds_to_the_nearest(
    bits: int, group: int, axis: int, symmetric: bool, act_order: bool
) -> None:
    weight = problem(8, 24)[0].float()
    hessian = torch.diag(torch.rand(24, generator=torch.Generator().manual_seed(1)) + 0.1)
    found = gptq(weight, hessian, CodeFormat(bits, group, axis, symmetric), act_order=act_order)
    expected = round_to_nearest(weight, bits, group, axis, symmetric)
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.scales, expected.scales)
    assert (found.zeros is None) == (expected.zeros is None) == symmetric
    if found.zeros is not None and expected.zeros is not None:
        assert torch.equal(found.zeros, expected.zeros)
    assert found.codes.is_contiguous() and found.scales.is_contiguous()


@pytest.mark.parametrize(("bits", "group", "axis", "symmetric"), FORMS)
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_changes_the_outputs_less_than_rounding(
    bits: int, group: int, axis: int, symmetric: bool, act_order: bool
) -> None:
    for seed in range(4):
        weight, hessian = problem(32, 64, seed, tokens=256)
        plain = values(round_to_nearest(weight, bits, group, axis, symmetric)) - weight
        found = values(gptq(weight, hessian, CodeFormat(bits, group, axis, symmetric), act_order=act_order)) - weight
        assert weighted_error(found, hessian) < 0.9 * weighted_error(plain, hessian)


def test_two_weights_by_hand() -> None:
    """Of two inputs that are always equal, the second's weight makes good what the first's lost.

    One scale of 0.5, from -4 / -8. By itself 1.2 becomes 1 and 2.2 becomes 2; with the lost 0.2 it is 2.4, so 2.5.
    """
    weight = torch.tensor([[1.2, 2.2, -4.0, 0.0]], dtype=torch.float64)
    hessian = torch.zeros(4, 4, dtype=torch.float64)
    hessian[:2, :2] = 1.0
    hessian += 1e-9 * torch.eye(4, dtype=torch.float64)
    assert values(round_to_nearest(weight, 4, 4, 1)).tolist() == [[1.0, 2.0, -4.0, 0.0]]
    assert values(gptq(weight, hessian, CodeFormat(4, 4, 1), damping=0.0)).tolist() == [[1.0, 2.5, -4.0, 0.0]]


def test_a_weight_that_is_on_the_grid_stays_and_16_bits_are_taken() -> None:
    weight, hessian = problem(6, 8)
    once = values(round_to_nearest(weight, 4, 4, 0))
    assert torch.equal(values(gptq(once, hessian, CodeFormat(4, 4, 0))), once)
    half = weight.bfloat16()
    form = CodeFormat(3, 4, 1)
    assert torch.equal(gptq(half, hessian, form).codes, gptq(half.double(), hessian, form).codes)
    with pytest.raises(ValueError, match="6 columns"):
        gptq(problem(2, 6)[0], problem(2, 6)[1], CodeFormat(3, 4, 1))


# --- SparseGPT ---


def magnitude(weight: Tensor, density: float, pattern: tuple[int, int] | None = None) -> Tensor:
    """The weight with its smallest values at zero and nothing made good."""
    if pattern is None:
        keep = largest(weight.abs().flatten(), round(density * weight.numel())).view_as(weight)
    else:
        keep = largest(weight.abs().unflatten(-1, (-1, pattern[1])), pattern[0]).flatten(-2)
    return torch.where(keep, weight, 0)


@pytest.mark.parametrize("pattern", [None, (2, 4), (4, 8)])
def test_sparsegpt_is_the_surgeon_column_by_column(pattern: tuple[int, int] | None) -> None:
    weight, hessian = problem(6, 16)
    inverses = [torch.linalg.inv(damped(hessian)[j:, j:])[0, 0] for j in range(16)]
    keep = torch.ones(6, 16, dtype=torch.bool)

    def settle(free: Tensor, j: int) -> Tensor:
        saliency = free**2 / torch.stack(inverses)
        if pattern is None and j % 8 == 0:
            found = sorted(saliency[:, j : j + 8].flatten().tolist(), reverse=True)[: 6 * 8 // 4]
            keep[:, j : j + 8] = saliency[:, j : j + 8] >= found[-1]
        if pattern is not None and j % pattern[1] == 0:
            block = saliency[:, j : j + pattern[1]]
            keep[:, j : j + pattern[1]] = block >= block.sort(descending=True).values[:, pattern[0] - 1 : pattern[0]]
        return torch.where(keep[:, j], free[:, j], 0)

    expected = surgeon(weight, damped(hessian), list(range(16)), settle)
    found, kept = sparsegpt(weight, hessian, 0.25, pattern, block=8)
    assert torch.equal(kept, keep)
    torch.testing.assert_close(found, torch.where(keep, expected, 0), rtol=0, atol=1e-9)
    assert bool((found[~kept] == 0).all())


@pytest.mark.parametrize("columns", [4, 6])
def test_one_row_against_every_mask(columns: int) -> None:
    """It is never better than the best mask with the best values for it, and on average better than magnitude.

    A saliency counts on all later columns to make a loss good, though some of them go too: where inputs are nearly
    the same and there are only four of them, that is wrong so often that magnitude is the better guide.
    """
    sums = {"best": 0.0, "found": 0.0, "magnitude": 0.0}
    masks = [torch.tensor(kept) for kept in itertools.combinations(range(columns), columns // 2)]
    for seed in range(40):
        weight, hessian = problem(1, columns, seed, own=3.0)
        best = min(weighted_error(best_for(weight, hessian, kept) - weight, hessian) for kept in masks)
        found, keep = sparsegpt(weight, hessian, 0.5, damping=1e-9)
        error = weighted_error(found - weight, hessian)
        assert int(keep.sum()) == columns // 2 and error >= best * (1 - 1e-9)
        sums["best"] += best
        sums["found"] += error
        sums["magnitude"] += weighted_error(magnitude(weight, 0.5) - weight, hessian)
    assert sums["best"] < sums["found"] < 0.8 * sums["magnitude"], sums


def best_for(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """The values at `kept` that change the outputs least: H_kk v = H_k: w."""
    found = torch.zeros_like(weight)
    found[0, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[0])
    return found


def test_the_last_columns_make_good_exactly_what_the_first_lost() -> None:
    """Where the pruned weights come first, nothing has settled when they go: the values are the best for the mask."""
    weight, hessian = problem(1, 6)
    weight[0, :3] *= 1e-3
    found, keep = sparsegpt(weight, hessian, 0.5, damping=1e-12)
    assert keep.tolist() == [[False] * 3 + [True] * 3]
    torch.testing.assert_close(found, best_for(weight, hessian, torch.tensor([3, 4, 5])), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pattern", [None, (2, 4), (4, 8)])
def test_sparsegpt_changes_the_outputs_less_than_magnitude(pattern: tuple[int, int] | None) -> None:
    for seed in range(4):
        weight, hessian = problem(32, 64, seed, tokens=256)
        found, keep = sparsegpt(weight, hessian, 0.5, pattern)
        plain = magnitude(weight, 0.5, pattern)
        assert weighted_error(found - weight, hessian) < 0.7 * weighted_error(plain - weight, hessian)
        assert int(keep.sum()) == 32 * 32
        if pattern is not None:
            assert bool((keep.unflatten(-1, (-1, pattern[1])).sum(-1) == pattern[0]).all())


def test_without_correlation_only_the_mask_is_solved() -> None:
    weight = problem(4, 8)[0].float()
    sizes = torch.rand(8, generator=torch.Generator().manual_seed(1)) + 0.1
    found, keep = sparsegpt(weight, torch.diag(sizes), 0.5, damping=0.0)
    assert torch.equal(keep, largest((weight**2 * sizes).flatten(), 16).view(4, 8))
    assert torch.equal(found, torch.where(keep, weight, 0))


@pytest.mark.parametrize("density", [0.1, 0.37, 0.5, 1.0])
def test_the_number_kept_is_known_beforehand(density: float) -> None:
    weight, hessian = problem(5, 24)
    for block in (8, 10, 128):
        found, keep = sparsegpt(weight, hessian, density, block=block)
        assert int(keep.sum()) == kept_count(5, 24, density, None, block)
        assert density < 1 or torch.equal(found, weight)
    assert kept_count(5, 24, 0.5, (2, 4)) == 60
    assert sparsegpt(weight.bfloat16(), hessian, density)[0].dtype == torch.bfloat16


def test_the_lower_index_is_kept_among_equals() -> None:
    assert largest(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), 2).tolist() == [[True, True, False, False]]
    codes = unpack(gptq(torch.zeros(2, 8), torch.eye(8), CodeFormat(3, 4, 1)).codes, 3)
    assert codes.tolist() == [[4] * 8] * 2
