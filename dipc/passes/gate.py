"""`gate`: gate pruning (section 3.2, Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.pipeline.hidden_unit_pass import HiddenPruning
from dipc.pipeline.sparsity_pass import Glu


@dataclass(frozen=True)
class GatePruning(HiddenPruning):
    """Keep the units whose activated gate is largest: rows of up, columns of down; gate is read whole (Eq. 5).

    Attributes:
        density: kept weights of all weights of the MLP, above 1/3: gate alone is as many.
    """

    def rewrite(self, glu: Glu) -> fx.Node:
        """Compute the whole gate, select on it, and compute the rest for what is kept."""
        gate = glu.activate(glu.linear(glu.x, glu.gate))
        kept = self.select(glu, gate, "gate")
        up = glu.row_linear(glu.x, kept, glu.up)
        return glu.gather_linear(glu.product(gate, up), kept, glu.down)
