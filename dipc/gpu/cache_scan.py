"""Cache-aware selection (Eq. 10) as one Triton program that goes through a site's tokens in order.

This file imports Triton, so it is imported once there is work for it. What stands under `triton.jit` is no Python but a
language that looks like it: `if` on a constant is decided when it is compiled, everything else runs on the device.
Shapes: T tokens, U units of the site. dipc/cache/README.md states the rule.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dipc.gpu.arguments import Arrays, Rule, State


def scan(
    score_TU: Tensor, dense_T: Tensor, state: State, rule: Rule, kept: int, capacity: int, gamma: float
) -> tuple[Tensor, State]:
    """Return the masks, uint8[T,U], and the state after them.

    Args:
        score_TU: float32, float16 or bfloat16; all tensors are contiguous.
        dense_T: uint8; where not 0 the token's mask is full and the state stays as it is.
        state: the cache before the first token.
        rule: who stays.
        kept: units per token, 0 <= kept <= U.
        capacity: units that fit, 0 <= capacity <= U.
        gamma: the factor on scores of units outside the cache, a value of the scores' type.
    """
    tokens, units = score_TU.shape
    arrays = Arrays(
        score_TU, dense_T, torch.empty_like(score_TU, dtype=torch.uint8), state, State(*map(torch.empty_like, state))
    )
    block = triton.next_power_of_2(units)
    # Eight units or more to a thread, and at most 32 warps, which is what a program may have.
    warps = min(max(block // 256, 1), 32)
    _scan[(1,)](arrays, tokens, units, kept, capacity, gamma, rule, block, num_warps=warps, enable_fp_fusion=False)
    return arrays.mask, arrays.after


# Whether a number of tokens is 1, or 16 divides it, is not worth another compilation.
@triton.jit(do_not_specialize=["tokens", "kept", "capacity"])
def _scan(
    arrays: tl.tuple,
    tokens: tl.tensor,
    units: tl.tensor,
    kept: tl.tensor,
    capacity: tl.tensor,
    gamma: tl.tensor,
    RULE: tl.constexpr,  # noqa: N803 - Triton's way to write a constant
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    unit = tl.arange(0, BLOCK)
    there = unit < units
    cached = tl.load(arrays.before.cached + unit, there, 0) != 0
    freq = tl.load(arrays.before.freq + unit, there, 0)
    last_used = tl.load(arrays.before.last_used + unit, there, -1)
    t = tl.load(arrays.before.t)
    row = unit.to(tl.int64)
    token = 0
    while token < tokens:
        if tl.load(arrays.dense + token) == 0:
            chosen = _largest(_order(tl.load(arrays.score + row, there, 0.0), cached, gamma), there, kept)
            if RULE.counts:
                freq += chosen.to(tl.int64)
            last_used = tl.where(chosen, t, last_used)
            cached = _staying(chosen, cached, freq, last_used, kept, capacity, RULE)
            if RULE.forgets:
                freq = tl.where(cached, freq, 0)
            t += 1
            tl.store(arrays.mask + row, chosen.to(tl.uint8), there)
        else:
            tl.store(arrays.mask + row, there.to(tl.uint8), there)
        row += units
        token += 1
    tl.store(arrays.after.cached + unit, cached.to(tl.uint8), there)
    tl.store(arrays.after.freq + unit, freq, there)
    tl.store(arrays.after.last_used + unit, last_used, there)
    tl.store(arrays.after.t, t)


@triton.jit
def _order(score: tl.tensor, cached: tl.tensor, gamma: tl.tensor) -> tl.tensor:
    """Integers that lie as the products score * (1 if cached else gamma) do, each rounded to the scores' type."""
    if score.dtype == tl.bfloat16:  # the upper half of a float32
        wide = (score.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = score.to(tl.float32)
    product = tl.where(cached, wide, wide * gamma)
    if score.dtype == tl.float16:
        product = product.to(tl.float16).to(tl.float32)
    bits = product.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    broken = size > 0x7F800000
    size = tl.where(broken, 0x7F800000, size)
    # Without the bits that a narrower type does not have: they would only lengthen the search.
    if score.dtype == tl.bfloat16:
        size = (size + 0x7FFF + ((size >> 16) & 1)) >> 16
    elif score.dtype == tl.float16:
        size = size >> 13
    return tl.where((bits < 0) & (broken == 0), -size, size)


@triton.jit
def _staying(
    chosen: tl.tensor,
    cached: tl.tensor,
    freq: tl.tensor,
    last_used: tl.tensor,
    kept: tl.tensor,
    capacity: tl.tensor,
    RULE: tl.constexpr,  # noqa: N803
) -> tl.tensor:
    """The units that are in the cache after a token that touched the chosen ones."""
    key = freq * RULE.by_count + (last_used + 1) * RULE.by_time
    if RULE.protects:
        # Hits, new units and held ones fill the cache in turn: keys decide among those that no longer fit whole.
        tier = 2 * chosen.to(tl.int32) + cached.to(tl.int32)
        hits = tl.sum((tier == 3).to(tl.int32), 0)
        cut = tl.where(hits > capacity, 3, tl.where(kept > capacity, 2, 1))
        above = tl.where(cut == 3, 0, tl.where(cut == 2, hits, kept))
        return (tier > cut) | _largest(key, tier == cut, capacity - above)
    return _largest(key, chosen | cached, capacity)


@triton.jit
def _largest(key: tl.tensor, live: tl.tensor, count: tl.tensor) -> tl.tensor:
    """The `count` largest of the live keys, of equals the lower index; all, where there are no more."""
    high = tl.max(tl.where(live, key, -(2**31)), 0)
    low = tl.min(tl.where(live, key, high), 0)
    # The cut lies in [low, high]: `count` keys or more reach low, and fewer are above high.
    few = tl.sum(live.to(tl.int32), 0) <= count
    high = tl.where(few, low, high)
    low = tl.where(count > 0, low, high)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # half of their sum, rounded up, without the sum
        reached = tl.sum((live & (key >= middle)).to(tl.int32), 0)
        high = tl.where(reached > count, high, tl.where(reached == count, middle, middle - 1))
        low = tl.where(reached >= count, middle, low)
    above, equal = live & (key > low), live & (key == low)
    room = count - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
