"""`wina-ca`: WINA's scores with cache-aware masking (Eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.passes.dip_ca import DipCa
from dipc.passes.wina import Wina


@dataclass(frozen=True)
class WinaCa(Wina, DipCa):
    """WINA that prefers units already in the DRAM cache, as `dip-ca` does."""

    density: float = DipCa.density
