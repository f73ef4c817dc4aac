"""`synthetic_trace`: activity for a program without weights, drawn from an activity model.

Shape legend: T tokens, U units of a site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from dipc.cache.policy import get_policy
from dipc.cache.state import CacheState
from dipc.errors import UsageError
from dipc.ir import operators
from dipc.ir.operator import argument
from dipc.ir.program import Program
from dipc.ir.selections import cache_aware_nodes, capacities_text
from dipc.memory.lowering import active_units, lower
from dipc.memory.synthetic.activity import ActivityModel, default_activity
from dipc.memory.synthetic.scores import Scores
from dipc.memory.trace import Trace

SYNTHETIC_TOKENS = 96

Packed = npt.NDArray[np.uint8]
Select = Callable[[Tensor], Tensor]


def synthetic_trace(
    program: Program,
    seed: int,
    tokens: int = SYNTHETIC_TOKENS,
    activity: ActivityModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """A trace of a program that never ran: its sites select by scores that an activity model draws.

    A cache-aware site selects in closed loop, with the capacity that it has in the program. Memory is bounded by the
    trace itself. `meta["source"]` says what it is, so that a report can repeat it.

    Args:
        program: with a method applied.
        seed: of all that is drawn.
        tokens: T.
        activity: by default the one that comes with dipc.
        progress: called with sites done and in all.

    Raises:
        UsageError: no site selects, one keeps no fixed number of units, or `tokens` or `seed` is out of range.
    """
    if tokens < 1 or seed < 0:
        raise UsageError(f"synthetic activity: tokens is {tokens} and seed {seed}; give at least 1 and at least 0")
    activity = default_activity() if activity is None else activity
    aware, active = cache_aware_nodes(program), active_units(program)
    chosen = [site for site in lower(program).sites if not site.full]
    if not chosen:
        raise UsageError(f"{program.info.name} reads every weight for every token; compile it with a method first")
    for site in chosen:
        if site.name not in active:
            raise UsageError(
                f"{site.name} keeps no fixed number of units, so it needs real activity: give a model with weights"
            )
    deepest = max(program.info.layers - 1, 1)
    sites: dict[str, Packed] = {}
    for number, site in enumerate(chosen):
        scores = Scores(activity.at(site.id.place, site.layer / deepest), site.units, (seed, number))
        node = aware.get(site.name)
        select = _largest(active[site.name]) if node is None else _cache_aware(node, scores)
        sites[site.name] = _masks(scores, select, tokens)
        if progress is not None:
            progress(number + 1, len(chosen))
    info, method = program.info, program.method
    meta: dict[str, str | int | float] = {
        "model": info.name,
        "digest": info.digest,
        "method": method.options,
        "density": method.density,
        "scope": method.scope,
        "source": activity.label,
        "activity": activity.digest,
        "seed": seed,
        "capacities": capacities_text(program),
    }
    return Trace(sites, {site.name: site.units for site in chosen}, meta)


def _masks(scores: Scores, select: Select, tokens: int) -> Packed:
    """Packed masks uint8 [T, B]."""
    pieces = [np.packbits(select(torch.from_numpy(s)).numpy(), axis=-1) for s in scores.pieces(tokens)]
    return np.concatenate(pieces)


def _largest(count: int) -> Select:
    """Masks of the largest scores of each token."""
    target: Callable[[Tensor, int], Tensor] = operators.target("select_topk")  # type: ignore[assignment]
    return lambda score_TU: target(score_TU, count)


def _cache_aware(node: fx.Node, scores: Scores) -> Select:
    """The selection of a node, from a cold cache on; a policy that is given popularity has the model's."""
    k, capacity, gamma, policy = (argument(node, name) for name in ("k", "capacity", "gamma", "policy"))
    empty = CacheState.empty(len(scores.popularity_U))
    freq = empty.freq if get_policy(policy).counts else torch.from_numpy(scores.ranks_U)
    state = (empty.cached, freq, empty.last_used, empty.t)

    def select(score_TU: Tensor) -> Tensor:
        nonlocal state
        mask: Tensor
        mask, *after = node.target(score_TU, *state, k, capacity, gamma, policy)  # type: ignore[operator]
        state = tuple(after)
        return mask

    return select
