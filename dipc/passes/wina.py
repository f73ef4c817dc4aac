"""`wina`: DIP with scores that weigh each value by the weights it meets (WINA, Chen et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.passes.dip import Dip
from dipc.pipeline.mlp_rewriter import MlpRewriter


@dataclass(frozen=True)
class Wina(Dip):
    """Dynamic Input Pruning by |x_i| times the norm of weight column i: of gate and up stacked, then of down.

    The norms are resident, one number per unit.
    """

    def score(self, mlp: MlpRewriter, values: fx.Node, where: str) -> fx.Node:
        """|x_i| ||W_:,i||."""
        return mlp.product(mlp.abs(values), mlp.norms(where))
