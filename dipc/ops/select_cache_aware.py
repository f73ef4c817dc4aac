"""`select_cache_aware`: DIP-CA's selection, which prefers the units that are already in the cache (Eq. 10, Alg. 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.cache.policy import clamp_capacity, get_policy, policy_names
from dipc.cache.state import CacheState, preload, update
from dipc.gpu import selection as gpu
from dipc.gpu.arguments import Rule, State
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of
from dipc.ops import select_topk
from dipc.ops._cache_aware import CacheAwareOptions
from dipc.ops._cache_aware_onnx import BODIES, to_onnx


def reference(
    score: Tensor, state: CacheState, options: CacheAwareOptions, dense: Tensor | None = None
) -> tuple[Tensor, CacheState]:
    """Token by token: s = score * (c + gamma (1 - c)), mask = topK(s, k), c = cache_update(c, mask).

    score [..., U] holds magnitudes; the tokens are its leading dimensions in order. Returns mask bool[..., U] and the
    next state (dipc/cache/README.md), so that one call with many tokens and many calls with one give the same bits.
    Eq. 10 also divides by max|x|, which scales all units of a token alike; leaving it out saves a rounding. A product s
    that is NaN counts as +infinity. Where `dense`, the mask is full and the state stays as it is. Of a policy that does
    not count, `freq` is the units' popularity, and the most popular are cached before the first token.
    """
    rule = get_policy(options.policy)
    state = preload(state, options.capacity, rule)
    off = torch.full((), options.gamma, dtype=score.dtype, device=score.device)
    rows = score.reshape(-1, score.shape[-1]).unbind()
    masks = []
    # No value of a tensor decides what is called next: on another device that would wait for it, token by token.
    for row, skip in zip(rows, [None] * len(rows) if dense is None else dense.reshape(-1).unbind(), strict=True):
        mask = select_topk.reference(row * torch.where(state.cached, 1.0, off), options.k)
        after = update(state, mask, options.capacity, rule)
        state = after if skip is None else _unless(skip, after, state)
        masks.append(mask if skip is None else mask | skip)
    mask = torch.stack(masks).reshape(score.shape) if masks else torch.zeros_like(score, dtype=torch.bool)
    return mask, CacheState(*(tensor.clone() for tensor in state.tensors))


def _unless(skip: Tensor, after: CacheState, before: CacheState) -> CacheState:
    pairs = zip(before.tensors, after.tensors, strict=True)
    return CacheState(*(torch.where(skip, was, then) for was, then in pairs))


def kernel(
    score: Tensor, state: CacheState, options: CacheAwareOptions, dense: Tensor | None = None
) -> tuple[Tensor, CacheState]:
    """The scan in C++ or Triton where it is there and covers the case, else the reference; the same bits either way."""
    rule = get_policy(options.policy)
    if rule.online and rule.key_weights is not None and gpu.covers_scores(score):
        return _on_gpu(score, state, options, dense)
    number = rule.native_number if rule.online else None
    if number is None or not native.covers_scores(str(score.dtype), str(score.device.type)):
        return reference(score, state, options, dense)
    if not rule.counts and not state.t:
        state = preload(state, options.capacity, rule)
    mask, after = native.select_cache_aware(
        score.detach().reshape(-1, score.shape[-1]).contiguous().numpy(),
        native.State(*(tensor.numpy() for tensor in (*state.tensors[:3], state.t.reshape(1)))),
        k=options.k,
        capacity=clamp_capacity(rule, options.capacity, score.shape[-1]),
        gamma=options.gamma,
        policy=number,
        dense=None if dense is None else dense.reshape(-1).contiguous().numpy(),
    )
    cached, freq, last_used, t = (torch.from_numpy(array) for array in after)
    return torch.from_numpy(mask).reshape(score.shape), CacheState(cached, freq, last_used, t.reshape(()))


def _on_gpu(
    score: Tensor, state: CacheState, options: CacheAwareOptions, dense: Tensor | None
) -> tuple[Tensor, CacheState]:
    rule = get_policy(options.policy)
    assert rule.key_weights is not None
    mask, after = gpu.select_cache_aware(
        score.reshape(-1, score.shape[-1]),
        State(*preload(state, options.capacity, rule).tensors),
        Rule(*rule.key_weights, rule.protects_current_token, rule.counts, rule.drops_count_on_evict),
        k=options.k,
        capacity=clamp_capacity(rule, options.capacity, score.shape[-1]),
        gamma=options.gamma,
        dense_T=None if dense is None else dense.reshape(-1),
    )
    return mask.reshape(score.shape), CacheState(*after)


def fake(
    score: Tensor, state: CacheState, options: CacheAwareOptions, dense: Tensor | None = None
) -> tuple[Tensor, CacheState]:
    """A mask of the score's shape and a state of the state's."""
    units, k, capacity = score.shape[-1], options.k, options.capacity
    if not 0 <= k <= units or not 0 <= capacity <= units or state.cached.shape != (units,):
        raise ValueError(
            f"select_cache_aware at {options.site}: k {k}, capacity {capacity} and {units} units do not fit"
        )
    return torch.empty_like(score, dtype=torch.bool), CacheState(*map(torch.empty_like, state.tensors))


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Reads no weight."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """Scores with ties from an empty and from a used cache; every bound of k and capacity; NaN and infinity."""
    score = torch.randint(0, 7, (1, tokens, units), generator=generator).float()
    dense = torch.rand(1, tokens, generator=generator) < 0.5
    cold = CacheState.empty(units)
    empty, used = cold.tensors, reference(score, cold, CacheAwareOptions(units // 2, units // 3, 0.2))[1].tensors
    cases: list[tuple[Any, ...]] = [
        (score, *empty, k, c, 0.2) for k in (0, units // 2, units) for c in (0, units // 3, units)
    ]
    odd = torch.tensor([0, 1, 2, 3, 4, torch.nan, torch.inf])[score.long()]
    popular = (empty[0], torch.arange(units) * 5 % 3, *empty[2:])
    return [
        *cases,
        *((score, *used, units // 2, units // 3, 0.2, policy) for policy in _exported()),
        (score, *popular, units // 2, units // 3, 0.2, "static"),
        (odd, *used, units // 2, units // 3, 0.2),
        (score, *used, units // 2, units // 3, 0.5, "lru"),
        (score, *used, units // 2, 1, 0.2, "lfu", "", dense),
    ]


def _exported() -> list[str]:
    """Return the policies that every form of the operator knows."""
    return [name for name in policy_names() if get_policy(name).online and get_policy(name).key_weights is not None]


OPERATOR = Operator(
    "select_cache_aware",
    schema_of(reference, last=("claim",)),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, BODIES),
)
