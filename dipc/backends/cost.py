"""Price a program's memory traffic on a device. Every figure is simulated.

The traffic is the program's by `dipc.memory.lowering.lower`, the DRAM is shared out by
`dipc.memory.allocation.allocate`, and a trace of which units each token touched is replayed under the eviction policy
(`dipc.memory.pricing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dipc.backends._backend import Backend
from dipc.memory.price import Case, Price
from dipc.memory.pricing import price_many
from dipc.memory.trace import Trace
from dipc.memory.traffic import TrafficProgram


class Cost(Backend):
    """Prices every token's flash and DRAM traffic on a device description (simulated)."""

    def price(
        self,
        traffic: TrafficProgram,
        cases: Sequence[Case],
        trace: Trace | None,
        *,
        warmup: int = 0,
        popularity: Mapping[str, npt.NDArray[np.int64]] | None = None,
    ) -> list[Price]:
        """Price every token; see `dipc.memory.pricing.price_many`."""
        return price_many(traffic, cases, trace, warmup=warmup, popularity=popularity)
