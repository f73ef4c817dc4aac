"""`up`: up pruning (section 3.2): gate pruning (Eq. 5) with the parts of gate and up exchanged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.pipeline.hidden_unit_pass import HiddenPruning
from dipc.pipeline.mlp_rewriter import MlpRewriter


@dataclass(frozen=True)
class UpPruning(HiddenPruning):
    """Keep the units whose up projection is largest: rows of gate, columns of down; up is read whole.

    Attributes:
        density: kept weights of all weights of the MLP, above 1/3: up alone is as many.
    """

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """Compute the whole up projection, select on it, and compute the rest for what is kept."""
        up = mlp.linear(mlp.x, mlp.up)
        kept = self.select(mlp, up, "up")
        gate = mlp.activate(mlp.row_linear(mlp.x, kept, mlp.gate))
        return mlp.gather_linear(mlp.product(gate, up), kept, mlp.down)
