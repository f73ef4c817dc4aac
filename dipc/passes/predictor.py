"""`predictor`: predictive GLU pruning (section 3.2, Eq. 6), as DejaVu does it (Liu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from dipc.pipeline.mlp_rewriter import ATEN, Matrix
from dipc.pipeline.sparsity_pass import CalibratedPass, Glu

WIDTH = 1000
"""Hidden units of a predictor in the paper (section 6.1)."""


@dataclass(frozen=True)
class Predictor(CalibratedPass):
    """Keep the hidden units that a small network, trained by `dipc calibrate`, expects to be largest (Eq. 6).

    All three matrices are read by the kept units alone. The network's weights are resident, and count as such.
    """

    def rewrite(self, glu: Glu) -> fx.Node:
        """Ask the predictor, and compute only what it keeps."""
        names = ("w1", "b1", "w2", "b2")
        w1, b1, w2, b2 = (
            glu.weight(f"predictor.{name}", value.to(glu.like.dtype))
            for name, value in zip(names, self.predictor(glu), strict=True)
        )
        logits = glu.linear(glu.call(ATEN.relu.default, glu.linear(glu.x, Matrix(w1, b1))), Matrix(w2, b2))
        kept = glu.select_topk(logits, self.density, "glu")
        gate, up = (glu.row_linear(glu.x, kept, matrix) for matrix in (glu.gate, glu.up))
        return glu.gather_linear(glu.product(glu.activate(gate), up), kept, glu.down)

    def predictor(self, glu: Glu) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The calibrated weights; for a program without weights shapes alone, `WIDTH` wide."""
        shapes = ((WIDTH, glu.mlp.d_model), (WIDTH,), (glu.mlp.d_ff, WIDTH), (glu.mlp.d_ff,))
        return self.read(
            glu.program,
            lambda calibration: calibration.predictor(glu.mlp.site_prefix),
            lambda: tuple(torch.empty(shape, device="meta") for shape in shapes),  # type: ignore[return-value]
        )
