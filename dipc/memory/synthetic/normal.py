"""Distributions as tables of their quantiles, at fixed points of the standard normal one.

A table turns a standard normal variable into one that is distributed as what was measured, in the same order: the
normal one carries the correlation, the table the shape (a Gaussian copula).

Shape legend: G points of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

GRID_G: Floats = np.linspace(-4.0, 4.0, 33)
"""Where tables hold the quantile; between the points they are linear, beyond the ends constant."""

_CELLS_PER_SD = 512
_CELLS = int(GRID_G[-1] - GRID_G[0]) * _CELLS_PER_SD
_BISECTIONS = 40


def shares() -> Floats:
    """[G]: the share of a standard normal variable below each point of the grid."""
    below: Floats = torch.special.ndtr(torch.from_numpy(GRID_G)).numpy()
    return below


def quantile_points(count: int) -> Floats:
    """[count]: the middles of as many equally likely parts of the standard normal distribution, ascending."""
    points: Floats = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).numpy()
    return points


class Transform:
    """Looks a table up, in one of 512 cells per standard deviation: as quick as the normal numbers themselves.

    Args:
        table_G: the quantiles.
    """

    def __init__(self, table_G: Sequence[float]) -> None:
        middles = GRID_G[0] + (np.arange(_CELLS) + 0.5) / _CELLS_PER_SD
        self._cells = np.interp(middles, GRID_G, table_G).astype(np.float32)

    def __call__(self, normal: Singles) -> Singles:
        """The values of standard normal ones, of the same shape."""
        cell = (normal - np.float32(GRID_G[0])) * np.float32(_CELLS_PER_SD)
        found: Singles = np.take(self._cells, cell.astype(np.int32), mode="clip")
        return found


def latent_correlation(table_G: Sequence[float], correlation: float) -> float:
    """How two standard normal variables are correlated whose looked-up values have the given correlation.

    By bisection: the values' correlation grows with the normal ones'.

    Args:
        table_G: the quantiles.
        correlation: of the values; 0 where it is negative.
    """
    low, high = 0.0, 1.0
    if not 0 < correlation < 1:
        return low if correlation <= 0 else high
    powers = _hermite_powers(table_G)
    orders = np.arange(1, len(powers) + 1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(powers @ middle**orders) < correlation * float(powers.sum()):
            low = middle
        else:
            high = middle
    return low


def _hermite_powers(table_G: Sequence[float]) -> Floats:
    """[N]: the variance that Hermite polynomials of order 1, 2, ... give a table's values.

    By Mehler's formula values of normal variables with correlation r have the covariance sum_n powers[n] r^n.
    """
    z, weight, polynomials_NZ = _quadrature()
    return (polynomials_NZ @ (weight * np.interp(z, GRID_G, table_G))) ** 2


@cache
def _quadrature() -> tuple[Floats, Floats, Floats]:
    """Points [Z] and weights [Z] of the standard normal distribution, and Hermite polynomials [N, Z] of variance 1."""
    points, orders = 2000, 24
    z = np.linspace(-8.0, 8.0, points + 1)
    weight = np.exp(-(z**2) / 2)
    polynomials = [np.ones_like(z), z]
    for n in range(1, orders):
        polynomials.append((z * polynomials[n] - np.sqrt(n) * polynomials[n - 1]) / np.sqrt(n + 1))
    return z, weight / weight.sum(), np.stack(polynomials[1:])
