"""A fixed hot set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dipc.cache.policy import Policy


@dataclass(frozen=True)
class Static(Policy):
    """Keep the units that a calibration found most popular, loaded beforehand, whatever the tokens touch.

    The hot set of PowerInfer (Song et al., SOSP 2024). Loading it happens once and is no token's traffic.
    """

    protects: ClassVar[bool] = False
    counts: ClassVar[bool] = False

    def key(self, freq: Any, last_used: Any) -> Any:
        return freq * 2**25
