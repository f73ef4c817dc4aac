"""`sensitivity`: DIP with calibrated scores per channel, in the manner of CHESS (He et al., 2024, arXiv 2409.01366)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from dipc.passes.wina import Wina
from dipc.pipeline.mlp_rewriter import MlpRewriter


@dataclass(frozen=True)
class Sensitivity(Wina):
    """Dynamic Input Pruning by |x_i| times how much the MLP's output follows input i, measured by `dipc calibrate`.

    Hidden units are ranked as `wina` does, for which the weights say all: by |GLU_i| times the norm of down's column.
    """

    def score(self, mlp: MlpRewriter, values: fx.Node, where: str) -> fx.Node:
        """|x_i| s_i at the input."""
        if where == "glu":
            return super().score(mlp, values, where)
        measured = self.read(
            mlp.program,
            lambda calibration: calibration.sensitivity(mlp.info.site_prefix),
            lambda: torch.empty(mlp.info.d_model, device="meta"),
        )
        return mlp.product(mlp.abs(values), mlp.weight("sensitivity", measured))
