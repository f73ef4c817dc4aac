"""Sharing a density out over sites: the linear model of Appendix B.1 and the greedy choice, against cases on paper."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from dipc.calibration.density_allocation import DensityAllocation, DensityPoint, fit, logit, pareto, sigmoid
from dipc.errors import UsageError
from dipc.ir.program import Mlp

GRID = (0.25, 0.5, 0.75)


def mlp(layer: int, d_ff: int = 8) -> Mlp:
    return Mlp(f"model.layers.{layer}.mlp", layer, "gate", "up", "down", 4, d_ff, "silu")


def cubic(*factors: float) -> Tensor:
    """Divergences factor * q^3, q the pruned share: float32 [2, G], which the curves between them follow exactly."""
    return torch.tensor([[factor * (1 - rho) ** 3 for rho in GRID] for factor in factors])


def mean_density(found: dict[str, tuple[float, float]], mlps: list[Mlp]) -> float:
    sizes = {m.site_prefix: m.d_model * m.d_ff for m in mlps}
    kept = math.fsum(sizes[name] * (2 * rho_in + rho_glu) for name, (rho_in, rho_glu) in found.items())
    return kept / (3 * sum(sizes.values()))


def test_greedy_on_paper() -> None:
    """Where site s costs c q^3 and has w weights, all sites end at the same c q^2 / w: q is as sqrt(w / c).

    Two MLPs, the second twice as wide. Weights 2, 1, 4, 2 (in units of the first's down) and factors 2, 1/4, 1, 2 make
    q as 1, 2, 2, 1. With q = 0.3, 0.6, 0.6, 0.3 the weights saved are 0.6 + 0.6 + 2.4 + 0.6 = 4.2 of 9.
    """
    mlps = [mlp(0), mlp(1, d_ff=16)]
    allocation = DensityAllocation(0, 1, GRID, {"layers.0": cubic(2, 0.25), "layers.1": cubic(1, 2)})
    found = allocation.layers(1 - 4.2 / 9, mlps)
    assert found["layers.0"] == pytest.approx((0.7, 0.4), abs=0.01)
    assert found["layers.1"] == pytest.approx((0.4, 0.7), abs=0.01)
    assert mean_density(found, mlps) == pytest.approx(1 - 4.2 / 9, abs=1e-12)


def test_what_costs_nothing_is_pruned_first() -> None:
    """Half of the second MLP pays for a quarter of both; its input, at 1/4, saves 2 x 3/4 of its 3: that half."""
    allocation = DensityAllocation(0, 1, GRID, {"layers.0": cubic(1, 1), "layers.1": cubic(0, 0)})
    found = allocation.layers(0.75, [mlp(0), mlp(1)])
    assert found == {"layers.0": (1.0, 1.0), "layers.1": (pytest.approx(0.25), 1.0)}


def test_noise_cannot_make_less_density_cheaper() -> None:
    """Measured 0.2 at density 1/2 and 0.1 at 1/4: the curve stays at 0.2."""
    noisy, monotone = torch.tensor([[0.1, 0.2, 0.1]] * 2), torch.tensor([[0.2, 0.2, 0.1]] * 2)
    both = [DensityAllocation(0, 1, GRID, {"layers.0": curve, "layers.1": cubic(1, 2)}) for curve in (noisy, monotone)]
    first, second = (a.layers(0.6, [mlp(0), mlp(1)]) for a in both)
    assert first == second


factors = st.floats(0.01, 100)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(factors, factors), min_size=2, max_size=4), st.floats(0.3, 0.95), st.randoms())
def test_greedy_is_optimal_where_divergences_add_up(
    pairs: list[tuple[float, float]], density: float, random: Random
) -> None:
    """No other allocation of the same density within the grid costs less, but for the width of a step."""
    mlps = [mlp(i) for i in range(len(pairs))]
    allocation = DensityAllocation(0, 1, GRID, {m.site_prefix: cubic(*p) for m, p in zip(mlps, pairs, strict=True)})
    pruned = {name: [1 - r for r in rhos] for name, rhos in allocation.layers(density, mlps).items()}

    def cost(shares: dict[str, list[float]]) -> float:
        return sum(
            c * q**3 for m, p in zip(mlps, pairs, strict=True) for c, q in zip(p, shares[m.site_prefix], strict=True)
        )

    equal = {m.site_prefix: [1 - density, 1 - density] for m in mlps}
    assert cost(pruned) <= cost(equal) * 1.005
    for _ in range(10):
        first, second = (random.choice([(m.site_prefix, site) for m in mlps for site in (0, 1)]) for _ in range(2))
        moved = {name: list(q) for name, q in pruned.items()}
        moved[first[0]][first[1]] += 0.05 / (2 - first[1])
        moved[second[0]][second[1]] -= 0.05 / (2 - second[1])
        if all(0 <= q <= 0.75 for shares in moved.values() for q in shares):
            assert cost(pruned) <= cost(moved) * 1.005


curves = st.lists(st.floats(0, 10, width=32), min_size=6, max_size=6).map(lambda v: torch.tensor(v).reshape(2, 3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(curves, st.sampled_from([8, 24])), min_size=1, max_size=4), st.floats(1e-3, 1))
def test_layers_meets_the_density_whatever_was_measured(measured: list[tuple[Tensor, int]], density: float) -> None:
    mlps = [mlp(i, d_ff) for i, (_, d_ff) in enumerate(measured)]
    allocation = DensityAllocation(0, 1, GRID, {f"layers.{i}": curve for i, (curve, _) in enumerate(measured)})
    found = allocation.layers(density, mlps)
    assert mean_density(found, mlps) == pytest.approx(density, abs=1e-9)
    assert all(0 < rho <= 1 for rhos in found.values() for rho in rhos)


def test_layers_below_the_grid_are_equal() -> None:
    allocation = DensityAllocation(0, 1, GRID, {"layers.0": cubic(1, 2), "layers.1": cubic(3, 4)})
    assert allocation.layers(0.1, [mlp(0), mlp(1)]) == {"layers.0": (0.1, 0.1), "layers.1": (0.1, 0.1)}


def test_layers_needs_every_mlp_measured() -> None:
    with pytest.raises(UsageError, match=r"not measured for layers\.1"):
        DensityAllocation(0, 1, GRID, {"layers.0": cubic(1, 2)}).layers(0.5, [mlp(0), mlp(1)])


@pytest.mark.parametrize("density", [0, -0.1, 1.01, math.nan])
def test_no_density_outside_0_and_1(density: float) -> None:
    allocation = DensityAllocation(0, 1, GRID, {"layers.0": cubic(1, 2)})
    for share in (allocation.split, lambda d: allocation.layers(d, [mlp(0)])):
        with pytest.raises(UsageError, match="must be in"):
            share(density)


def test_split_on_paper() -> None:
    """At density 1/2, whose logit is 0, rho_in is the sigmoid of the intercept: log(0.6 / 0.4) gives 0.6, and 0.3."""
    assert DensityAllocation(math.log(1.5), 1.3, GRID, {}).split(0.5) == pytest.approx((0.6, 0.3), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-6, 6), st.floats(-1, 4), st.floats(1e-9, 1))
def test_split_has_the_density_everywhere(intercept: float, slope: float, density: float) -> None:
    rho_in, rho_glu = DensityAllocation(intercept, slope, GRID, {}).split(density)
    assert 0 < rho_in <= 1 and 0 < rho_glu <= 1
    assert (2 * rho_in + rho_glu) / 3 == pytest.approx(density, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1))
def test_the_line_0_1_is_the_equal_split(density: float) -> None:
    assert DensityAllocation(0, 1, GRID, {}).split(density) == pytest.approx((density, density), rel=1e-9)


def test_split_of_everything_is_everything() -> None:
    assert DensityAllocation(-3, 0.2, GRID, {}).split(1.0) == (1.0, 1.0)


def test_pareto_keeps_what_nothing_beats() -> None:
    best = [DensityPoint(0.3, 0.3, 2.0), DensityPoint(0.6, 0.3, 1.0), DensityPoint(0.6, 0.9, 0.5)]
    beaten = [DensityPoint(0.3, 0.3, 2.5), DensityPoint(0.5, 0.6, 1.0), DensityPoint(0.9, 0.9, 0.5)]
    assert pareto([*beaten, *best]) == best


def test_fit_recovers_a_line_from_among_worse_points() -> None:
    """The cheapest pair of each density lies on the line; others of the density cost more."""
    points = []
    for density in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        on_line = sigmoid(0.3 + 1.2 * logit(density))
        for off in (-0.1, 0.0, 0.1):
            rho_in = on_line + off
            points.append(DensityPoint(rho_in, 3 * density - 2 * rho_in, (1 - density) ** 3 + off * off / 10))
    assert fit(points) == pytest.approx((0.3, 1.2), abs=1e-9)


def test_fit_without_two_densities_is_the_equal_split() -> None:
    assert fit([DensityPoint(0.6, 0.3, 1.0), DensityPoint(1.0, 1.0, 0.0)]) == (0.0, 1.0)


def test_an_allocation_survives_a_file() -> None:
    allocation = DensityAllocation(0.3, 1.2, GRID, {"layers.0": cubic(1, 2), "layers.1.0": cubic(3, 4)})
    again = DensityAllocation.from_tensors(load(save({"other": torch.zeros(1), **allocation.to_tensors()})))
    assert again is not None
    assert (again.intercept, again.slope, again.grid) == (0.3, 1.2, GRID)
    assert again.divergence.keys() == allocation.divergence.keys()
    assert all(torch.equal(again.divergence[name], curve) for name, curve in allocation.divergence.items())
    assert DensityAllocation.from_tensors({"other": torch.zeros(1)}) is None
