"""SparseGPT: prune block after block of columns, each zero's error made good by the columns after it.

Source: Frantar, Alistarh: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023, algorithm 1
and section 3.3 (n:m). Shapes: weight [O, I], Hessian [I, I].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipc.tuning.solvers.hessian import DAMPING, inverse_factor

BLOCK = 128
"""Columns whose mask is chosen at once."""


def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    density: float,
    pattern: tuple[int, int] | None = None,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """Prune a weight so that its outputs change little.

    A weight's saliency is w^2 / [H_F^-1]_jj, F being its column and those after it: what its loss would cost at least.

    Args:
        weight: [O, I], finite.
        hessian: [I, I], see `hessian_of`; it is computed in its dtype.
        density: kept weights of each block's, over all rows; without meaning where there is a pattern.
        pattern: (n, m) to keep n of every m consecutive weights of a row; m divides I.
        damping: see `inverse_factor`.
        block: columns of a block.

    Returns:
        The pruned weight in the weight's dtype, and which were kept, bool [O, I].

    Raises:
        ValueError: as `inverse_factor`.
    """
    free = weight.detach().to(hessian.dtype, copy=True)
    columns = free.shape[1]
    factor = inverse_factor(hessian, damping)
    cost = factor.diagonal() ** 2
    keep = torch.ones_like(free, dtype=torch.bool)
    _, m = pattern or (0, 1)
    block = max(1, block // m) * m
    for first in range(0, columns, block):
        last = min(first + block, columns)
        if pattern is None:
            saliency = free[:, first:last] ** 2 / cost[first:last]
            keep[:, first:last] = largest(saliency.flatten(), kept_of(density, saliency.numel())).view_as(saliency)
        errors = torch.zeros_like(free[:, first:last])
        for j in range(first, last):
            if pattern is not None and j % m == 0:
                keep[:, j : j + m] = largest(free[:, j : j + m] ** 2 / cost[j : j + m], pattern[0])
            error = torch.where(keep[:, j], 0, free[:, j]) / factor[j, j]
            free[:, j:last] -= torch.outer(error, factor[j, j:last])
            errors[:, j - first] = error
        free[:, last:] -= errors @ factor[first:last, last:]
    return torch.where(keep, free, 0).to(weight.dtype), keep


def kept_of(density: float, count: int) -> int:
    """Weights to keep: density times their number, rounded half up."""
    return math.floor(density * count + 0.5)


def kept_count(rows: int, columns: int, density: float, pattern: tuple[int, int] | None, block: int = BLOCK) -> int:
    """How many weights `sparsegpt` keeps of a matrix of that size."""
    if pattern is not None:
        return rows * columns * pattern[0] // pattern[1]
    return sum(kept_of(density, rows * min(block, columns - first)) for first in range(0, columns, block))


def largest(values: Tensor, count: int) -> Tensor:
    """Which are the `count` largest along the last dim, the lower index first among equals."""
    order = values.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order, True)
