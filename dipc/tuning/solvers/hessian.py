"""The Hessian of a linear layer's squared error, H = X^T X over the layer's inputs, and the factor that solvers walk.

A change D of the weight [O, I] costs tr(D H D^T). When column j is given an error e in one row, the least of that cost
is had by moving the columns after it by -e / [H_F^-1]_jj [H_F^-1]_j,: where F are the columns j, j + 1, ... Row j of
the upper Cholesky factor of H^-1, divided by its diagonal, is that direction for every j at once (Frantar et al. 2022,
"GPTQ", section 3, step 3).

Shape legend: O outputs, I inputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DAMPING = 0.01
_MOST = 1.0


def hessian_of(inputs: Iterable[Tensor]) -> Tensor:
    """X^T X, float32 [I, I], of inputs [..., T, I] that come in pieces."""
    total: Tensor | None = None
    for x in inputs:
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        total = rows.T @ rows if total is None else total.addmm_(rows.T, rows)
    if total is None:
        raise ValueError("no inputs to find a Hessian of")
    return total


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """U, upper triangular, with U^T U = (H + d I)^-1, where d is `damping` times the mean of H's diagonal.

    Where rounding still leaves H without a factor, the damping is made ten times as large, up to 1.

    Args:
        hessian: [I, I], symmetric and positive semidefinite.
        damping: makes a Hessian of fewer tokens than inputs, or with inputs that are always zero, invertible.

    Raises:
        ValueError: H is not finite, or has no factor.
    """
    if not bool(hessian.isfinite().all()):
        raise ValueError("the inputs are not finite")
    mean = float(hessian.diagonal().mean())
    while damping <= _MOST:
        damped = hessian.clone()
        damped.diagonal().add_(damping * mean if mean > 0 else 1.0)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damping = max(10 * damping, 1e-6)
    raise ValueError("the Hessian of the inputs is not positive definite")


def weighted_error(change: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T), the squared error of the outputs that a change D [O, I] of the weight makes."""
    return float(((change @ hessian) * change).sum())
