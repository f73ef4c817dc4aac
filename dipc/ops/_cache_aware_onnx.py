"""The ONNX form of `select_cache_aware`: a scan over tokens whose policy is attributes, in standard operators."""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.cache.policy import Policy, clamp_capacity, get_policy, policy_names
from dipc.cache.state import CacheState
from dipc.errors import UnsupportedModel
from dipc.ir.onnx_form import onnx_node
from dipc.ops._cache_aware import CacheAwareOptions

# 1125899906842624 is 2**KEY_BITS: the tier stands above the key.
_SELECT = """
{name} <k, capacity, gamma, policy, frequency_weight, recency_weight, protects, counts, forgets, site>
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
_PRELOAD = """
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

SELECT, SELECT_BY_BODY = "SelectCacheAware", "SelectCacheAwareByKey"
"""The operator; and the same under a name that no kernel has, for policies that only the body can follow."""

BODIES = {
    **{name: _SELECT.replace("{name}", name) for name in (SELECT, SELECT_BY_BODY)},
    "PreloadCache": _PRELOAD,
}


def to_onnx(
    score: Tensor, state: CacheState, options: CacheAwareOptions, dense: Tensor | None = None
) -> tuple[Tensor, CacheState]:
    """`SelectCacheAware` for policies with `key_weights`; `dense` is false everywhere where it is not given."""
    rule = _policy(options)
    assert rule.key_weights is not None
    if dense is None:
        dense = torch.zeros(score.shape[:-1], dtype=torch.bool)
    room = clamp_capacity(rule, options.capacity, score.shape[-1])
    cached, *counts = state.tensors
    if not rule.counts:
        inputs = (cached, state.freq, state.t)
        cached = onnx_node("PreloadCache", inputs, {"capacity": room}, (torch.bool, cached.shape))
    attributes: dict[str, int | float | str] = {
        "k": options.k,
        "capacity": room,
        "gamma": float(options.gamma),
        "policy": options.policy,
        "frequency_weight": rule.key_weights.freq,
        "recency_weight": rule.key_weights.last_used,
        "protects": int(rule.protects_current_token),
        "counts": int(rule.counts),
        "forgets": int(rule.drops_count_on_evict),
        "site": options.site,
    }
    results = [(torch.bool, score.shape), *((tensor.dtype, tensor.shape) for tensor in (cached, *counts))]
    name = SELECT_BY_BODY if rule.native_number is None else SELECT
    mask, *after = onnx_node(name, (score, dense, cached, *counts), attributes, *results)
    return mask, CacheState(*after)


def _policy(options: CacheAwareOptions) -> Policy:
    """Return the policy. UnsupportedModel where it is unknown or no weighted sum."""
    known = [name for name in policy_names() if _has_form(get_policy(name))]
    if options.policy not in known:
        where, have = options.site or "a site", ", ".join(known)
        raise UnsupportedModel(f"the policy {options.policy!r} at {where} has no ONNX form; only {have} have")
    return get_policy(options.policy)


def _has_form(policy: Policy) -> bool:
    return policy.online and policy.key_weights is not None
