"""The base of the methods that decide once per MLP, on a score of its hidden units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import fx

from dipc.errors import UsageError
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.sparsity_pass import CalibratedPass, check_choice

Threshold = Literal["token", "layer", "global"]


@dataclass(frozen=True)
class HiddenPruning(CalibratedPass):
    """Base of the methods that keep hidden units by a score for which some of the three matrices are read whole.

    Attributes:
        threshold: what a score must reach: the token's own k-th largest (`token`), or a number that the kept share of
            scores reaches on a calibration text, one for each layer (`layer`) or for all (`global`), so that tokens
            keep different numbers of units.
    """

    whole: ClassVar[int] = 1
    threshold: Threshold = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "threshold", self.threshold, Threshold)
        if self.rho() <= 0:
            raise UsageError(
                f"{self.name}: density={self.density:g} cannot be reached: {self.whole} of an MLP's 3 matrices "
                f"{'is' if self.whole == 1 else 'are'} read whole, so ask for more than {self.whole / 3:.3f}"
            )

    def rho(self) -> float:
        """The share of hidden units to keep for the density, where the other matrices keep only those."""
        # Without the noise of the sums, by which 3 x 0.8 - 2 is less than 0.4.
        return round((3 * self.density - self.whole) / (3 - self.whole), 12)

    def select(self, mlp: MlpRewriter, values: fx.Node, kind: str) -> fx.Node:
        """The mask of the values [1, T, F] that are largest in magnitude; `kind` is what a calibration calls them."""
        score, rho = mlp.abs(values), self.rho()
        if self.threshold == "token":
            return mlp.select_topk(score, rho, "glu")
        per_layer = self.threshold == "layer"
        limit = self.read(
            mlp.program,
            lambda c: c.threshold(mlp.info.site_prefix, kind, rho) if per_layer else c.global_threshold(kind, rho),
            lambda: 0.0,
        )
        return mlp.select_threshold(score, limit, rho, "glu")
