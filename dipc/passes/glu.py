"""`glu`: GLU pruning (section 3.2, Eq. 4), the oracle that knows every hidden value before it chooses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from dipc.pipeline.hidden_unit_pass import HiddenPruning
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.sparsity_pass import check_density


@dataclass(frozen=True)
class GluPruning(HiddenPruning):
    """Keep the columns of down with the largest GLU activations; up and gate are read whole (Eq. 4).

    Attributes:
        density: kept weights of all weights of the MLP, above 2/3: up and gate alone are as many.
        rho_glu: kept columns of down, instead of what makes (2 + rho_glu) / 3 equal to `density`: the share that the
            paper gives for its oracle.
    """

    oracle: ClassVar[bool] = True
    whole: ClassVar[int] = 2
    density: float = 0.8
    rho_glu: float | None = None

    def __post_init__(self) -> None:
        if self.rho_glu is not None:
            check_density(self.name, "rho_glu", self.rho_glu)
        super().__post_init__()

    def rho(self) -> float:
        """rho_glu, given or from the density."""
        return super().rho() if self.rho_glu is None else self.rho_glu

    def exact(self) -> Pass:
        """Everything kept."""
        return dataclasses.replace(self, density=1.0, rho_glu=None)

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """Compute the whole GLU, then select on it."""
        hidden = mlp.product(mlp.activate(mlp.linear(mlp.x, mlp.gate)), mlp.linear(mlp.x, mlp.up))
        return mlp.gather_linear(hidden, self.select(mlp, hidden, "glu"), mlp.down)
