"""`dip-ca`: DIP with cache-aware masking (section 5.2, Eq. 10 and Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.find import device_for
from dipc.ir.program import Program
from dipc.ir.selections import cache_aware, with_capacities
from dipc.memory.allocation import allocate
from dipc.memory.lowering import check_bits, lower
from dipc.passes.dip import Dip
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.pass_ import PassResult


@dataclass(frozen=True)
class DipCa(Dip):
    """Dynamic Input Pruning that prefers units already in the DRAM cache: uncached scores are multiplied by gamma.

    Attributes:
        gamma: penalty of units that are not cached, in (0, 1]; 1 is DIP. The paper uses 0.2.
        policy: eviction policy of the cache (`dipc policies list`); `static` takes each unit's popularity from the
            calibration.
        capacity: fraction of the units that the cache holds, where no device is given.
        input_share: share of an MLP's cache that the columns of up and gate get, in (0, 1); by default the 2/3 that
            they are of its weights. What one site has no use for, the other gets.
        hw: a device (name or file) whose DRAM gives the capacity instead.
        dram: DRAM for the model on that device, such as "4 GB", or "50%" of the dense model at its stored width; by
            default as its file says.
        context: positions of KV cache that stay resident on that device; by default the model's context, at most 2,048.
        bits_per_weight: width at which that device stores weights; by default the checkpoint's.
    """

    cache_aware: ClassVar[bool] = True
    density: float = 0.7
    gamma: float = 0.2
    policy: str = "lfu"
    capacity: float = 0.5
    input_share: float | None = None
    hw: str | None = None
    dram: str | None = None
    context: int | None = None
    bits_per_weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise UsageError(f"{self.name}: gamma={self.gamma:g} is outside (0, 1]; 1 ignores the cache")
        if self.context is not None and self.context < 0:
            raise UsageError(f"{self.name}: context={self.context} is negative")
        check_bits(self.bits_per_weight)
        if not 0 <= self.capacity <= 1:
            raise UsageError(
                f"{self.name}: capacity={self.capacity:g} is outside [0, 1]; it is a fraction of the units"
            )
        if self.input_share is not None and not 0 < self.input_share < 1:
            raise UsageError(f"{self.name}: input_share={self.input_share:g} is outside (0, 1); 2/3 is by size")
        for option in ("dram", "context", "bits_per_weight"):
            if getattr(self, option) is not None and self.hw is None:
                raise UsageError(f"{self.name}: {option}={getattr(self, option)} needs a device: add hw=a18")
        if not get_policy(self.policy).online:
            raise UsageError(
                f"{self.name}: policy={self.policy} decides by what later tokens touch, and here that follows from the "
                "cache; take another policy, or estimate `dip` with it"
            )

    def select(self, mlp: MlpRewriter, score: fx.Node, density: float, where: str) -> fx.Node:
        """topK of Eq. 10, with the cache's state carried along."""
        capacity, claim = self.room(where)
        return mlp.select_cache_aware(
            score,
            density,
            where,
            gamma=self.gamma,
            policy=self.policy,
            capacity=capacity,
            claim=claim,
            popularity=self._popularity(mlp, where),
        )

    def room(self, where: str) -> tuple[float, float]:
        """The fraction of a site's units that is cached, and the site's claim to more where a device decides."""
        if self.input_share is None:
            return self.capacity, 1.0
        size = {"input": 2 / 3, "glu": 1 / 3}
        claim = {"input": self.input_share / size["input"], "glu": (1 - self.input_share) / size["glu"]}
        other = "glu" if where == "input" else "input"
        least = (self.capacity - size[other]) / size[where]
        return round(min(1.0, max(self.capacity * claim[where], least)), 12), claim[where]

    def _popularity(self, mlp: MlpRewriter, where: str) -> Tensor | None:
        """Return the popularity of a site's units, int64 [U], where the policy does not count touches itself."""
        if get_policy(self.policy).counts:
            return None
        return self.read(
            mlp.program,
            lambda calibration: calibration.popularity_counts(mlp.info.site_prefix, where),
            lambda: torch.empty(mlp.units(where), dtype=torch.int64, device="meta"),
        )

    def run(self, program: Program) -> PassResult:
        """Rewrite, then give every site the capacity that the device leaves it."""
        result = super().run(program)
        if self.hw is None or not result.modified:
            return result
        traffic = lower(result.program, self.bits_per_weight)
        dense = lower(result.program.reference, self.bits_per_weight)
        device = device_for(self.hw, self.dram, None, dense.total_bytes)
        context = program.info.usual_context if self.context is None else self.context
        room = allocate(traffic, device.dram_available, context)
        own = {site: c for site, c in room.capacities.items() if site not in cache_aware(program)}
        return PassResult(with_capacities(result.program, own), result.matches, result.mismatches)
