"""`select_cache_aware`: DIP-CA's selection, which prefers the units that are already in the cache (Eq. 10, Alg. 1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.cache.policy import clamp_capacity, get_policy
from dipc.cache.state import CacheState, preload, update
from dipc.errors import UnsupportedModel
from dipc.ops import select_topk
from dipc.ops.onnx_form import OnnxForm, onnx_node
from dipc.ops.operator import Operator, Read

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


# Policy -> the factors of freq and of last_used + 1 in its key.
KEY_WEIGHTS = {
    "none": (0, 0),
    "lru": (0, 1),
    "lfu": (2**25, 1),
    "lfu-in-cache": (2**25, 1),
    "lfu-admission": (2**25, 1),
    "static": (2**25, 0),
}

# 1125899906842624 is 2**KEY_BITS: the tier stands above the key.
BODY = """
SelectCacheAware <k, capacity, gamma, policy, frequency_weight, recency_weight, protects, counts, forgets, site>
    (score, dense, cached, freq, last_used, t) => (mask, next_cached, next_freq, next_last_used, next_t)
{
    shape = Shape (score)
    any = Constant <value_ints = [-1]> ()
    units = Shape <start = -1> (score)
    by_token = Concat <axis = 0> (any, units)
    rows = Reshape (score, by_token)
    skips = Reshape (dense, any)
    first = Constant <value_ints = [0]> ()
    k = Constant <value_int: int = @k> ()
    kept_count = Unsqueeze (k, first)
    capacity = Constant <value_int: int = @capacity> ()
    cached_count = Unsqueeze (capacity, first)
    gamma = Constant <value_float: float = @gamma> ()
    weight = Constant <value_int: int = @frequency_weight> ()
    time_weight = Constant <value_int: int = @recency_weight> ()
    counted = Constant <value_int: int = @counts> ()
    protected = Constant <value_int: int = @protects> ()
    protecting = Cast <to = 9> (protected)
    forgotten = Constant <value_int: int = @forgets> ()
    forgetting = Cast <to = 9> (forgotten)
    one_time = Constant <value_float = 1.0> ()
    infinity = Constant <value_float = inf> ()
    one = Constant <value_int = 1> ()
    two = Constant <value_int = 2> ()
    tier_size = Constant <value_int = 1125899906842624> ()
    next_cached, next_freq, next_last_used, next_t, masks = Scan <num_scan_inputs = 2, body = token (
        bool[U] c, int64[U] f, int64[U] l, int64 now, float[U] s, bool skip
    ) => (bool[U] c_next, int64[U] f_next, int64[U] l_next, int64 now_next, bool[U] m) {
        factor = Where (c, one_time, gamma)
        scaled = Mul (s, factor)
        broken = IsNaN (scaled)
        ranked = Where (broken, infinity, scaled)
        largest, kept = TopK <axis = 0, largest = 1, sorted = 1> (ranked, kept_count)
        zeros = Sub (f, f)
        kept_shape = Shape (kept)
        kept_ones = Expand (one, kept_shape)
        touched = ScatterElements <axis = 0> (zeros, kept, kept_ones)
        chosen = Cast <to = 9> (touched)
        uses = Mul (touched, counted)
        totals = Add (f, uses)
        times = Where (chosen, now, l)
        was = Cast <to = 7> (c)
        candidate = Or (chosen, c)
        alike = Cast <to = 7> (candidate)
        twice = Mul (touched, two)
        in_turn = Add (twice, was)
        tier = Where (protecting, in_turn, alike)
        above = Mul (tier, tier_size)
        weighed = Mul (totals, weight)
        since = Add (times, one)
        recent = Mul (since, time_weight)
        below = Add (weighed, recent)
        key = Add (above, below)
        best_key, best = TopK <axis = 0, largest = 1, sorted = 1> (key, cached_count)
        best_fits = Gather <axis = 0> (candidate, best)
        fits = Cast <to = 7> (best_fits)
        stays = ScatterElements <axis = 0> (zeros, best, fits)
        stay = Cast <to = 9> (stays)
        out = Not (stay)
        reset = And (forgetting, out)
        counts = Where (reset, zeros, totals)
        after = Add (now, one)
        m = Or (chosen, skip)
        unchanged = And (skip, c)
        works = Not (skip)
        changed = And (works, stay)
        c_next = Or (unchanged, changed)
        f_next = Where (skip, f, counts)
        l_next = Where (skip, l, times)
        now_next = Where (skip, now, after)
    }> (cached, freq, last_used, t, rows, skips)
    mask = Reshape (masks, shape)
}
"""

# Before the first token the most popular units are cached.
PRELOAD_BODY = """
PreloadCache <capacity> (cached, popularity, t) => (first_cached)
{
    first = Constant <value_ints = [0]> ()
    capacity = Constant <value_int: int = @capacity> ()
    count = Unsqueeze (capacity, first)
    largest, best = TopK <axis = 0, largest = 1, sorted = 1> (popularity, count)
    best_shape = Shape (best)
    one = Constant <value_int = 1> ()
    ones = Expand (one, best_shape)
    zeros = Sub (popularity, popularity)
    marked = ScatterElements <axis = 0> (zeros, best, ones)
    hot = Cast <to = 9> (marked)
    zero = Constant <value_int = 0> ()
    is_first = Equal (t, zero)
    loaded = And (is_first, hot)
    is_later = Not (is_first)
    held = And (is_later, cached)
    first_cached = Or (loaded, held)
}
"""


def lower(
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
) -> Any:
    """`SelectCacheAware` for the built-in policies; `dense` is false everywhere where it is not given."""
    if policy not in KEY_WEIGHTS:
        raise UnsupportedModel(
            f"the policy {policy!r} at {site or 'a site'} has no ONNX form; only {', '.join(KEY_WEIGHTS)} have"
        )
    if dense is None:
        dense = torch.zeros(score.shape[:-1], dtype=torch.bool)
    rule = get_policy(policy)
    room = clamp_capacity(rule, capacity, score.shape[-1])
    if not rule.counts:
        cached = onnx_node("PreloadCache", (cached, freq, t), {"capacity": room}, (torch.bool, cached.shape))
    frequency_weight, recency_weight = KEY_WEIGHTS[policy]
    attributes: dict[str, int | float | str] = {
        "k": k,
        "capacity": room,
        "gamma": float(gamma),
        "policy": policy,
        "frequency_weight": frequency_weight,
        "recency_weight": recency_weight,
        "protects": int(rule.protects),
        "counts": int(rule.counts),
        "forgets": int(rule.forgets),
        "site": site,
    }
    state = (cached, freq, last_used, t)
    results = [(score, torch.bool), *((s, s.dtype) for s in state)]
    typed = [(dtype, like.shape) for like, dtype in results]
    return onnx_node("SelectCacheAware", (score, dense, *state), attributes, *typed)


OPERATOR = Operator(
    "select_cache_aware",
    "(Tensor score, Tensor cached, Tensor freq, Tensor last_used, Tensor t, int k, int capacity, float gamma, "
    "str policy='lfu', str site='', Tensor? dense=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(lower, {"SelectCacheAware": BODY, "PreloadCache": PRELOAD_BODY}),
)
