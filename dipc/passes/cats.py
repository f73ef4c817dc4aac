"""`cats`: gate pruning by a calibrated threshold per layer (CATS, Lee et al., 2024, arXiv 2404.08763)."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.passes.gate import GatePruning
from dipc.pipeline.hidden_unit_pass import Threshold


@dataclass(frozen=True)
class Cats(GatePruning):
    """Keep the units whose activated gate reaches the layer's threshold: as `gate`, but as many as a token has.

    With threshold=token this is `gate`.
    """

    threshold: Threshold = "layer"
