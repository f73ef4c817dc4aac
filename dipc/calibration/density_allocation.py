"""Which density each site of a model gets, so that the whole has the target: fitted and measured, then computed.

Two ways. One pair (rho_in, rho_glu) for all MLPs, from the linear model in logit space of Appendix B.1 of the paper; or
a pair for each MLP, by a greedy choice over every site's own measured divergence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dipc.errors import UsageError
from dipc.ir.program import Mlp

SITES = ("input", "glu")
PREFIX = "allocation."
STEPS = 100
"""Steps from dense to the grid's lowest density in the greedy choice."""
LEAST_PRUNED = 1e-3
"""Share of the least that was measured: where a curve begins, as a power has no logarithm at zero."""
LEAST = 0.05
"""No site gets less than this share of the density, however far the linear model is taken from its points."""


class DensityPoint(NamedTuple):
    """The cost of one pair of densities: divergence in nats per token."""

    rho_in: float
    rho_glu: float
    divergence: float

    @property
    def density(self) -> float:
        """Kept weights of all weights of an MLP: up and gate have rho_in, down has rho_glu."""
        return (2 * self.rho_in + self.rho_glu) / 3


class DensityStep(NamedTuple):
    """A site lowered from density `high` to `low`; `cost` is nats per token for each weight no longer read."""

    cost: float
    mlp: str
    site: int
    high: float
    low: float


@dataclass(frozen=True)
class DensityAllocation:
    """The densities of sites, by where MLPs can do without weights on a calibration text.

    Attributes:
        intercept: of logit(rho_in) = intercept + slope * logit(density), Appendix B.1.
        slope: of the same; (0, 1) is the equal split.
        grid: densities in (0, 1), ascending, at which single sites were measured.
        divergence: site prefix of an MLP -> float32 [2, G], KL to dense in nats per token when only that MLP's site
            ("input", "glu") is at the grid's density.
    """

    intercept: float
    slope: float
    grid: tuple[float, ...]
    divergence: Mapping[str, Tensor]

    def split(self, density: float) -> tuple[float, float]:
        """(rho_in, rho_glu) of every MLP for the target density: both in (0, 1], (2 rho_in + rho_glu) / 3 = density.

        UsageError for a density outside (0, 1].
        """
        check(density)
        if density == 1:
            return 1.0, 1.0
        least = LEAST * density
        wanted = sigmoid(self.intercept + self.slope * logit(density))
        rho_in = min(max(wanted, least, (3 * density - 1) / 2), 1.0, (3 * density - least) / 2)
        return rho_in, min(1.0, 3 * density - 2 * rho_in)

    def layers(self, density: float, mlps: Sequence[Mlp]) -> dict[str, tuple[float, float]]:
        """Site prefix -> (rho_in, rho_glu); their mean over the MLPs, weighted by weights, is the target density.

        From all dense, take the step that costs the least divergence per weight saved, until the target is met; the
        last step is taken in part. If the sites' divergences add up, no other choice costs less: on its convex hull a
        site's steps only grow dearer, so the cheapest steps of all can be taken in order, and exchanging one that was
        taken for one that was not would cost more (the continuous knapsack problem). The peer is TEAL's greedy
        allocation (arXiv 2408.14690), which looks at the error of a block's output. Below the grid, where nothing was
        measured, all sites have the target's density.

        Raises:
            UsageError: a density outside (0, 1], or an MLP that was not measured.
        """
        check(density)
        if missing := [m.site_prefix for m in mlps if m.site_prefix not in self.divergence]:
            raise UsageError(f"the density allocation was not measured for {missing[0]}; calibrate this model anew")
        if density <= self.grid[0]:
            return {m.site_prefix: (density, density) for m in mlps}
        weights = {m.site_prefix: (2 * m.d_model * m.d_ff, m.d_model * m.d_ff) for m in mlps}
        kept = {mlp: [1.0, 1.0] for mlp in weights}
        excess = (1 - density) * sum(map(sum, weights.values()))
        steps = [step for mlp in weights for site in (0, 1) for step in self._steps(mlp, site, weights[mlp][site])]
        for step in sorted(steps, key=lambda s: (s.cost, -s.high)):
            saved = (step.high - step.low) * weights[step.mlp][step.site]
            if saved >= excess:
                kept[step.mlp][step.site] = step.high - excess / weights[step.mlp][step.site]
                break
            kept[step.mlp][step.site] = step.low
            excess -= saved
        return {mlp: (rho_in, rho_glu) for mlp, (rho_in, rho_glu) in kept.items()}

    def _steps(self, mlp: str, site: int, weights: int) -> Iterable[DensityStep]:
        """A site's steps from dense to the grid's lowest density, on the lower convex hull of its divergence."""
        hull = [(1.0, 0.0)]
        for point in self._curve(mlp, site):
            while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(point)
        for first, second in pairwise(hull):
            yield DensityStep(_slope(first, second) / weights, mlp, site, first[0], second[0])

    def _curve(self, mlp: str, site: int) -> list[tuple[float, float]]:
        """(density, divergence) of a site by falling density, made monotone, at STEPS densities.

        Between the grid's densities the divergence is a power of the pruned share: a grid with so few densities then
        tells as much as a fine one. Above the grid the power is 3: the smallest values, a share q of all, reach as high
        as q does, and the sum of their squares as q^3.
        """
        pruned = 1 - np.array(self.grid[::-1])
        measured = np.maximum.accumulate(self.divergence[mlp][site].double().numpy()[::-1])
        first = LEAST_PRUNED * pruned[0]
        x = np.log(np.concatenate([[first], pruned]))
        y = np.log(np.concatenate([[LEAST_PRUNED**3 * measured[0]], measured]).clip(min=np.finfo(float).tiny))
        shares = np.linspace(0, pruned[-1], STEPS + 1)[1:]
        return list(zip((1 - shares).tolist(), np.exp(np.interp(np.log(shares), x, y)).tolist(), strict=True))

    def to_tensors(self) -> dict[str, Tensor]:
        """As tensors under names that begin with `allocation.`."""
        fit = torch.tensor([self.intercept, self.slope], dtype=torch.float64)
        grid = torch.tensor(self.grid, dtype=torch.float64)
        curves = {f"{PREFIX}divergence.{mlp}": curve for mlp, curve in self.divergence.items()}
        return {f"{PREFIX}fit": fit, f"{PREFIX}grid": grid, **curves}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> DensityAllocation | None:
        """Read what `to_tensors` gave, among other tensors; None where it is absent."""
        if f"{PREFIX}fit" not in tensors:
            return None
        intercept, slope = tensors[f"{PREFIX}fit"].tolist()
        start = f"{PREFIX}divergence."
        curves = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
        return cls(intercept, slope, tuple(tensors[f"{PREFIX}grid"].tolist()), curves)


def pareto(points: Iterable[DensityPoint]) -> list[DensityPoint]:
    """The points that no other one beats in density and divergence, by ascending density."""
    best: list[DensityPoint] = []
    for point in sorted(points, key=lambda p: (p.density, p.divergence)):
        if not best or point.divergence < best[-1].divergence:
            best.append(point)
    return best


def fit(points: Iterable[DensityPoint]) -> tuple[float, float]:
    """Intercept and slope of logit(rho_in) over logit(density), by least squares over the Pareto-optimal points.

    Points that keep all of a site or nothing have no logit and are left out. With fewer than two densities left there
    is no line, and the answer is (0, 1), the equal split.
    """
    pairs = [(logit(p.density), logit(p.rho_in)) for p in pareto(points) if 0 < p.rho_in < 1 and 0 < p.density < 1]
    if len({x for x, _ in pairs}) < 2:
        return 0.0, 1.0
    mean_x, mean_y = (math.fsum(v) / len(pairs) for v in zip(*pairs, strict=True))
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / math.fsum((x - mean_x) ** 2 for x, _ in pairs)
    return mean_y - slope * mean_x, slope


def logit(p: float) -> float:
    """log(p / (1 - p))."""
    return math.log(p) - math.log1p(-p)


def sigmoid(x: float) -> float:
    """The inverse of `logit`, which overflows nowhere."""
    return (1 + math.tanh(x / 2)) / 2


def check(density: float) -> None:
    """UsageError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise UsageError(f"a density of {density:g} cannot be allocated; it must be in (0, 1]")


def _slope(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Divergence gained per density lost between two (density, divergence)."""
    return (second[1] - first[1]) / (first[0] - second[0])
