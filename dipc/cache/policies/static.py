"""A fixed hot set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.cache.policy import KeyWeights, Policy


@dataclass(frozen=True)
class Static(Policy):
    """Keep the units that a calibration found most popular, loaded beforehand, whatever the tokens touch.

    The hot set of PowerInfer (Song et al., SOSP 2024). Loading it happens once and is no token's traffic.
    """

    protects_current_token: ClassVar[bool] = False
    counts: ClassVar[bool] = False
    native_number = 5
    key_weights = KeyWeights(freq=2**25, last_used=0)
