"""`input-only`: a third-party method. Prune by the input alone; the down matrix is read whole."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.errors import UsageError
from dipc.pipeline.sparsity_pass import Glu, SparsityPass


@dataclass(frozen=True)
class InputOnly(SparsityPass):
    """Keep the columns of up and gate with the largest inputs, and all of down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density <= 1 / 3:
            raise UsageError(
                f"{self.name}: density={self.density:g}: down alone is a third of the weights; ask for more"
            )

    def rewrite(self, glu: Glu) -> fx.Node:
        """(2 rho + 1) / 3 = density."""
        kept = glu.select_topk(glu.abs(glu.x), (3 * self.density - 1) / 2, "input")
        gate = glu.gather_linear(glu.x, kept, glu.gate)
        up = glu.gather_linear(glu.x, kept, glu.up)
        return glu.linear(glu.product(glu.activate(gate), up), glu.down)
