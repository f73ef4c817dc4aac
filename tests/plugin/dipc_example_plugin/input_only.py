"""`input-only`: a third-party method. Prune by the input alone; the down matrix is read whole."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from dipc.errors import UsageError
from dipc.pipeline import MlpRewriter, SparsityPass


@dataclass(frozen=True)
class InputOnly(SparsityPass):
    """Keep the columns of up and gate with the largest inputs, and all of down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density <= 1 / 3:
            raise UsageError(
                f"{self.name}: density={self.density:g}: down alone is a third of the weights; ask for more"
            )

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """(2 rho + 1) / 3 = density."""
        kept = mlp.select_topk(mlp.abs(mlp.x), (3 * self.density - 1) / 2, "input")
        gate = mlp.gather_linear(mlp.x, kept, mlp.gate)
        up = mlp.gather_linear(mlp.x, kept, mlp.up)
        return mlp.linear(mlp.product(mlp.activate(gate), up), mlp.down)
