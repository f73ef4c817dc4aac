"""`gate`: gate pruning (section 3.2, Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.pipeline.hidden_unit_pass import HiddenPruning
from dipc.pipeline.mlp_rewriter import MlpRewriter


@dataclass(frozen=True)
class GatePruning(HiddenPruning):
    """Keep the units whose activated gate is largest: rows of up, columns of down; gate is read whole (Eq. 5).

    Attributes:
        density: kept weights of all weights of the MLP, above 1/3: gate alone is as many.
    """

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """Compute the whole gate, select on it, and compute the rest for what is kept."""
        gate = mlp.activate(mlp.linear(mlp.x, mlp.gate))
        kept = self.select(mlp, gate, "gate")
        up = mlp.row_linear(mlp.x, kept, mlp.up)
        return mlp.gather_linear(mlp.product(gate, up), kept, mlp.down)
