"""How much each input channel of an MLP matters to its output, from the MLP's Jacobian, which is never formed.

Shape legend: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.ops.glu import ACTIVATIONS
from dipc.tuning.activity import Activity

PROBES = 4
"""Random vectors per token. One probe's square has a relative deviation of sqrt(2); tokens average it out."""


class SensitivityStudy:
    """Collects the part "sensitivity": s_i = sqrt(E ||J[:, i]||^2) over tokens.

    J = W_down (diag(act(g)) W_up + diag(u act'(g)) W_gate), with g = W_gate x and u = W_up x, is the Jacobian [D, D] of
    the MLP at one token. For v of independent standard normals, (J^T v)_i^2 is ||J[:, i]||^2 on average (Hutchinson).

    Args:
        seed: of the probes.
        probes: per token.
    """

    def __init__(self, seed: int, probes: int = PROBES) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._probes = probes
        self._squares: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def see(self, activity: Activity) -> None:
        """Add one MLP's window."""
        mlp, x = activity.mlp.site_prefix, activity.x
        by_gate = activity.up * _slope(activity)
        total = torch.zeros(x.shape[-1], dtype=torch.float64)
        for _ in range(self._probes):
            v = torch.randn(x.shape, generator=self._generator).to(x)
            hidden = v @ activity.w_down
            pulled = (hidden * activity.activated) @ activity.w_up + (hidden * by_gate) @ activity.w_gate
            total += pulled.double().square().sum(0).cpu()
        self._squares[mlp] = self._squares.get(mlp, 0) + total
        self._count[mlp] = self._count.get(mlp, 0) + self._probes * len(x)

    def tensors(self) -> dict[str, Tensor]:
        """As `dipc.calibration.tensors` names them."""
        return {f"sensitivity.{m}": (s / self._count[m]).sqrt().float() for m, s in self._squares.items()}


def _slope(activity: Activity) -> Tensor:
    """act'(g) [T, F]."""
    act, options = ACTIVATIONS[activity.mlp.activation]
    with torch.enable_grad():
        gate = activity.gate.detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(gate, **options).sum(), gate)
    return slope
