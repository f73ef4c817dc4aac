"""Activity for programs without weights."""

from __future__ import annotations

import numpy as np
import torch

from dipc.cache.state import CacheState
from dipc.errors import UsageError
from dipc.lower import active_units, cache_aware, cache_aware_nodes, lower
from dipc.ops.operator import argument
from dipc.program import Program
from dipc.trace import Trace

SYNTHETIC_TOKENS = 96


def synthetic_trace(program: Program, seed: int, tokens: int = SYNTHETIC_TOKENS) -> Trace:
    """Masks for a program without weights: scores are |N(0, 1)|, independent for every token and unit.

    Real activity is more skewed and correlated from token to token, so real hit rates are usually higher. Cache-aware
    sites select in closed loop on these scores.
    """
    aware, generator = cache_aware(program), np.random.Generator(np.random.PCG64(seed))
    units = {s.name: s.units for s in lower(program).sites if not s.full}
    active = active_units(program)
    plain = {s: u for s, u in units.items() if s not in aware}
    missing = [s for s in plain if s not in active]
    if missing:
        raise UsageError(
            f"{missing[0]} keeps no fixed number of units, so it needs real activity: give a model with weights"
        )
    meta: dict[str, str | int | float] = {"digest": program.info.digest, "source": "synthetic", "seed": seed}
    parts = [Trace.synthetic(plain, {s: active[s] for s in plain}, tokens, seed, meta)] if plain else []
    sites = dict(parts[0].sites) if parts else {}
    for site, node in cache_aware_nodes(program).items():
        if site not in units:
            continue
        score = torch.from_numpy(np.abs(generator.standard_normal((tokens, units[site]), dtype=np.float32)))
        state = CacheState.empty(units[site])
        options = [argument(node, n) for n in ("k", "capacity", "gamma", "policy")]
        chosen = node.target(score, state.cached, state.freq, state.last_used, state.t, *options)  # type: ignore[operator]
        sites[site] = np.packbits(chosen[0].numpy(), axis=-1)
    return Trace(sites, units, meta)
