"""Record what a program's masks add up to while it runs: density, cache hits and, where it is asked for, the trace.

Masks are counted call by call and let go of, for those of a long text would not fit into memory.

Shape legend: T tokens, U units of a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dipc.cache.policy import get_policy
from dipc.cache.replay import Replay
from dipc.ir.program import Program
from dipc.ir.selections import cache_aware, capacities_text, popularities
from dipc.memory.lowering import lower
from dipc.memory.trace import Trace


class MaskRecorder:
    """Counts the masks of a program.

    Args:
        program: whose masks they are.
        keep: also keep them, packed, for a trace.
    """

    def __init__(self, program: Program, *, keep: bool) -> None:
        self._program = program
        self._sites = {site.name: site for site in lower(program).sites}
        popularity = popularities(program)
        self._caches = {
            name: Replay(self._sites[name].units, capacity, get_policy(policy), popularity.get(name))
            for name, (policy, capacity) in cache_aware(program).items()
            if name in self._sites
        }
        self._units = dict.fromkeys(self._sites, 0)
        self._kept_units = dict.fromkeys(self._sites, 0)
        self._hits = dict.fromkeys(self._caches, 0)
        self._packed: dict[str, list[Any]] | None = {} if keep else None

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Count the masks, bool [T, U] by site, of the sparse tokens of a call."""
        for name in self._sites:
            if name not in masks:
                continue
            mask_TU = masks[name].cpu().numpy()
            self._units[name] += mask_TU.size
            self._kept_units[name] += int(np.count_nonzero(mask_TU))
            if name in self._caches:
                self._hits[name] += int(self._caches[name].hits(mask_TU).sum())
            if self._packed is not None:
                self._packed.setdefault(name, []).append(np.packbits(mask_TU, axis=-1))

    @property
    def density(self) -> float:
        """Weights read of all weights of the MLPs, as the masks had it."""
        kept = total = 0.0
        for name, site in self._sites.items():
            total += site.weights
            seen = self._units[name]
            kept += site.kept_weights * (1.0 if site.full or not seen else self._kept_units[name] / seen)
        return kept / total if total else 1.0

    @property
    def hit_rate(self) -> float | None:
        """Hits per access in bytes of the cache-aware sites' own cache; None for programs without one."""
        if not any(self._units[name] for name in self._caches):
            return None
        size_bytes = {name: self._sites[name].unit_bytes for name in self._caches}
        accesses = sum(self._kept_units[name] * size for name, size in size_bytes.items())
        return sum(self._hits[name] * size for name, size in size_bytes.items()) / accesses if accesses else 0.0

    def trace(self, meta: Mapping[str, str | int | float]) -> Trace | None:
        """The masks that were kept, with where they come from; None where there are none."""
        if not self._packed:
            return None
        info, method = self._program.info, self._program.method
        own: dict[str, str | int | float] = {
            "model": info.name,
            "digest": info.digest,
            "method": method.options,
            "density": method.density,
            "scope": method.scope,
            **meta,
            "source": "recorded",
            "capacities": capacities_text(self._program),
        }
        units = {name: self._sites[name].units for name in self._packed}
        return Trace({name: np.concatenate(rows) for name, rows in self._packed.items()}, units, own)
