"""`predictor`: predictive GLU pruning (section 3.2, Eq. 6), as DejaVu does it (Liu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from dipc.pipeline.mlp_rewriter import ATEN, Matrix, MlpRewriter
from dipc.pipeline.sparsity_pass import CalibratedPass

WIDTH = 1000
"""Hidden units of a predictor in the paper (section 6.1)."""


@dataclass(frozen=True)
class Predictor(CalibratedPass):
    """Keep the hidden units that a small network, trained by `dipc calibrate`, expects to be largest (Eq. 6).

    All three matrices are read by the kept units alone. The network's weights are resident, and count as such.
    """

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """Ask the predictor, and compute only what it keeps."""
        names = ("w1", "b1", "w2", "b2")
        w1, b1, w2, b2 = (
            mlp.weight(f"predictor.{name}", value.to(mlp.like.dtype))
            for name, value in zip(names, self.predictor(mlp), strict=True)
        )
        logits = mlp.linear(mlp.call(ATEN.relu.default, mlp.linear(mlp.x, Matrix(w1, b1))), Matrix(w2, b2))
        kept = mlp.select_topk(logits, self.density, "glu")
        gate, up = (mlp.row_linear(mlp.x, kept, matrix) for matrix in (mlp.gate, mlp.up))
        return mlp.gather_linear(mlp.product(mlp.activate(gate), up), kept, mlp.down)

    def predictor(self, mlp: MlpRewriter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The calibrated weights; for a program without weights shapes alone, `WIDTH` wide."""
        shapes = ((WIDTH, mlp.info.d_model), (WIDTH,), (mlp.info.d_ff, WIDTH), (mlp.info.d_ff,))
        return self.read(
            mlp.program,
            lambda calibration: calibration.predictor(mlp.info.site_prefix),
            lambda: tuple(torch.empty(shape, device="meta") for shape in shapes),  # type: ignore[return-value]
        )
