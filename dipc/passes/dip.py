"""`dip`: Dynamic Input Pruning (section 4, Eq. 7 and 8). No predictor, and no calibration unless densities are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import fx

from dipc.errors import BadFile, UsageError
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.sparsity_pass import CalibratedPass, check_choice, check_density

Split = Literal["equal", "square", "split", "layers"]


@dataclass(frozen=True)
class Dip(CalibratedPass):
    """Dynamic Input Pruning: keep the largest inputs (Eq. 7), then the largest of the GLU they give (Eq. 8).

    Attributes:
        rho_in: kept columns of up and gate; by default `density`.
        rho_glu: kept columns of down; by default what makes (2 rho_in + rho_glu) / 3 equal to `density`. With both
            given, they alone decide.
        allocation: how sites share the density: all the same (`equal`); rho_glu = density^2 (`square`); or
            as calibrated, with one (rho_in, rho_glu) for all MLPs (`split`, Appendix B.1) or one for each (`layers`).
    """

    rho_in: float | None = None
    rho_glu: float | None = None
    allocation: Split = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "allocation", self.allocation, Split)
        given = {"rho_in": self.rho_in, "rho_glu": self.rho_glu}
        for option, value in given.items():
            if value is not None:
                check_density(self.name, option, value)
                if self.allocation != "equal":
                    raise UsageError(f"{self.name}: allocation={self.allocation} decides {option}; leave it out")
        for option, value in zip(given, self.densities(), strict=True):
            if not 0 < value <= 1:
                other = next(o for o in given if o != option)
                beside = "" if given[other] is None else f" with {other}={given[other]:g}"
                raise UsageError(
                    f"{self.name}: density={self.density:g}{beside} would need "
                    f"{option}={value:g}, outside (0, 1]; (2 rho_in + rho_glu) / 3 is the density"
                )

    def densities(self) -> tuple[float, float]:
        """(rho_in, rho_glu), each from the other where only one is given."""
        rho_in, rho_glu = self.rho_in, self.rho_glu
        if self.allocation == "square":
            rho_glu = self.density**2
        if rho_in is None:
            rho_in = self.density if rho_glu is None else (3 * self.density - rho_glu) / 2
        if rho_glu is None:
            rho_glu = 3 * self.density - 2 * rho_in
        # Without the noise of the sums, by which 3 x 0.8 - 2 x 0.7 is more than 1.
        return round(rho_in, 12), round(rho_glu, 12)

    def densities_of(self, mlp: MlpRewriter) -> tuple[float, float]:
        """(rho_in, rho_glu) of one MLP."""
        if self.allocation in ("equal", "square"):
            return self.densities()
        found = self.measured(mlp.program).allocation
        if found is None:
            raise BadFile(f"{self.calibration}: made without a density allocation; run `dipc calibrate` with it anew")
        if self.allocation == "split":
            return found.split(self.density)
        return found.layers(self.density, mlp.chosen)[mlp.info.site_prefix]

    def exact(self) -> Pass:
        """Everything kept."""
        return dataclasses.replace(self, density=1.0, rho_in=1.0, rho_glu=1.0, allocation="equal")

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """Select on the input, compute the approximate GLU, select on it."""
        rho_in, rho_glu = self.densities_of(mlp)
        kept = self.select(mlp, self.score(mlp, mlp.x, "input"), rho_in, "input")
        gate = mlp.gather_linear(mlp.x, kept, mlp.gate)
        up = mlp.gather_linear(mlp.x, kept, mlp.up)
        hidden = mlp.product(mlp.activate(gate), up)
        kept_hidden = self.select(mlp, self.score(mlp, hidden, "glu"), rho_glu, "glu")
        return mlp.gather_linear(hidden, kept_hidden, mlp.down)

    def score(self, mlp: MlpRewriter, values: fx.Node, where: str) -> fx.Node:
        """By what the units of a site are ranked: |.|. `wina` and `sensitivity` rank otherwise and share the rest."""
        return mlp.abs(values)

    def select(self, mlp: MlpRewriter, score: fx.Node, density: float, where: str) -> fx.Node:
        """The mask of one site: topK. `dip-ca` selects otherwise and shares the rest."""
        return mlp.select_topk(score, density, where)
