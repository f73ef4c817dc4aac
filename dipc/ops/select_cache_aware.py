"""`select_cache_aware`: DIP-CA's selection, which prefers the units that are already in the cache (Eq. 10, Alg. 1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.cache.policy import get_policy
from dipc.cache.state import CacheState, preload, update
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import Operator, Read
from dipc.ops import select_topk
from dipc.ops._cache_aware_onnx import BODIES, KEY_WEIGHTS, to_onnx

Selection = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def reference(
    score: Tensor,
    cached: Tensor,
    freq: Tensor,
    last_used: Tensor,
    t: Tensor,
    k: int,
    capacity: int,
    gamma: float,
    policy: str = "lfu",
    site: str = "",
    dense: Tensor | None = None,
) -> Selection:
    """Token by token: s = score * (c + gamma (1 - c)), mask = topK(s, k), c = cache_update(c, mask).

    score [..., U] holds magnitudes; the tokens are its leading dimensions in order. State: cached bool[U],
    freq i64[U], last_used i64[U], t i64[] (cache/README.md). Returns mask bool[..., U] and the next state, so
    that one call with many tokens and many calls with one give the same bits. Eq. 10 also divides by max|x|, which
    scales all units of a token alike; leaving it out saves a rounding. A product s that is NaN counts as +infinity.
    Where `dense`, the mask is full and the state stays as it is. Of a policy that does not count, `freq` is the units'
    popularity, and the most popular are cached before the first token.
    """
    rule = get_policy(policy)
    state = preload(CacheState(cached, freq, last_used, t), capacity, rule)
    off = torch.full((), gamma, dtype=score.dtype, device=score.device)
    rows = score.reshape(-1, score.shape[-1]).unbind()
    masks = []
    # No value of a tensor decides what is called next: on another device that would wait for it, token by token.
    for row, skip in zip(rows, [None] * len(rows) if dense is None else dense.reshape(-1).unbind(), strict=True):
        mask = select_topk.reference(row * torch.where(state.cached, 1.0, off), k)
        after = update(state, mask, capacity, rule)
        state = after if skip is None else _unless(skip, after, state)
        masks.append(mask if skip is None else mask | skip)
    mask = torch.stack(masks).reshape(score.shape) if masks else torch.zeros_like(score, dtype=torch.bool)
    return mask, state.cached.clone(), state.freq.clone(), state.last_used.clone(), state.t.clone()


def _unless(skip: Tensor, after: CacheState, before: CacheState) -> CacheState:
    names = (field.name for field in dataclasses.fields(CacheState))
    return CacheState(*(torch.where(skip, getattr(before, name), getattr(after, name)) for name in names))


def kernel(
    score: Tensor,
    cached: Tensor,
    freq: Tensor,
    last_used: Tensor,
    t: Tensor,
    k: int,
    capacity: int,
    gamma: float,
    policy: str = "lfu",
    site: str = "",
    dense: Tensor | None = None,
) -> Selection:
    """The native scan where the library is there and covers the case, else the reference; the same bits either way."""
    if not native.covers_scan(str(score.dtype), str(score.device.type), policy):
        return reference(score, cached, freq, last_used, t, k, capacity, gamma, policy, site, dense)
    units, rule = score.shape[-1], get_policy(policy)
    if not rule.counts and not t:
        cached = preload(CacheState(cached, freq, last_used, t), capacity, rule).cached
    state = (cached.numpy(), freq.numpy(), last_used.numpy(), t.reshape(1).numpy())
    mask, *after = native.select_cache_aware(
        score.detach().reshape(-1, units).contiguous().numpy(),
        *state,
        k=k,
        capacity=capacity,
        gamma=gamma,
        policy=policy,
        dense=None if dense is None else dense.reshape(-1).contiguous().numpy(),
    )
    c, f, last, now = (torch.from_numpy(a) for a in after)
    return torch.from_numpy(mask).reshape(score.shape), c, f, last, now.reshape(())


def fake(
    score: Tensor,
    cached: Tensor,
    freq: Tensor,
    last_used: Tensor,
    t: Tensor,
    k: int,
    capacity: int,
    gamma: float,
    policy: str = "lfu",
    site: str = "",
    dense: Tensor | None = None,
) -> Selection:
    """A mask of the score's shape and a state of the state's."""
    units = score.shape[-1]
    if not 0 <= k <= units or not 0 <= capacity <= units or cached.shape != (units,):
        raise ValueError(f"select_cache_aware at {site}: k {k}, capacity {capacity} and {units} units do not fit")
    state = (torch.empty_like(s) for s in (cached, freq, last_used, t))
    return (torch.empty_like(score, dtype=torch.bool), *state)  # type: ignore[return-value]


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Reads no weight."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """Scores with ties from an empty and from a used cache; every bound of k and capacity; NaN and infinity."""
    score = torch.randint(0, 7, (1, tokens, units), generator=generator).float()
    dense = torch.rand(1, tokens, generator=generator) < 0.5
    empty = (torch.zeros(units, dtype=torch.bool), torch.zeros(units).long(), torch.full((units,), -1), torch.tensor(0))
    used = reference(score, *empty, units // 2, units // 3, 0.2)[1:]
    cases: list[tuple[Any, ...]] = [
        (score, *empty, k, c, 0.2) for k in (0, units // 2, units) for c in (0, units // 3, units)
    ]
    odd = torch.tensor([0, 1, 2, 3, 4, torch.nan, torch.inf])[score.long()]
    popular = (empty[0], torch.arange(units) * 5 % 3, *empty[2:])
    return [
        *cases,
        *((score, *used, units // 2, units // 3, 0.2, policy) for policy in KEY_WEIGHTS),
        (score, *popular, units // 2, units // 3, 0.2, "static"),
        (odd, *used, units // 2, units // 3, 0.2),
        (score, *used, units // 2, units // 3, 0.5, "lru"),
        (score, *used, units // 2, 1, 0.2, "lfu", "", dense),
    ]


OPERATOR = Operator(
    "select_cache_aware",
    "(Tensor score, Tensor cached, Tensor freq, Tensor last_used, Tensor t, int k, int capacity, float gamma, "
    "str policy='lfu', str site='', Tensor? dense=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, BODIES),
)
