"""`sensitivity-ca`: scores per channel with cache-aware masking (Eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.passes.dip_ca import DipCa
from dipc.passes.sensitivity import Sensitivity


@dataclass(frozen=True)
class SensitivityCa(Sensitivity, DipCa):
    """`sensitivity` that prefers units already in the DRAM cache, as `dip-ca` does."""

    density: float = DipCa.density
