"""Recurrences over a call's tokens, in closed form: what Mamba-2 and the gated delta rule compute, without a loop.

transformers walks over a call's tokens or over chunks of them, and a trace would bake their number in. With all tokens
in one chunk nothing depends on it: a call of one token costs what a step does, and one of T tokens T x T per head, as
attention does. The numbers are those of transformers but for rounding.

Shape legend: T tokens, H heads, G groups of heads, N width of a state's rows (keys), P width of its columns (values).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def segment_decay(decay_BHT: Tensor) -> Tensor:
    """exp of the sum of decays after token s up to token t, [B, H, t, s]; zero where s is after t.

    Each row is a sum of its own, not a difference of two long ones, which would lose digits in a long call.
    """
    length = decay_BHT.shape[-1]
    ones = torch.ones(length, length, dtype=torch.bool, device=decay_BHT.device)
    rows = decay_BHT[..., None].expand(*decay_BHT.shape, length).masked_fill(~ones.tril(-1), 0.0)
    return torch.exp(rows.cumsum(-2)).masked_fill(~ones.tril(), 0.0)


def mamba2(
    hidden_states: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Mamba-2's selective scan, state = exp(dt A) state + dt x B^T, as transformers' `mamba2_chunk_scan` calls it.

    Args:
        hidden_states: x [1, T, H, P].
        dt: step sizes [1, T, H]; `dt_bias`, `dt_softplus` and `dt_limit` say what is done to them first.
        a: A [H], negative.
        b: B [1, T, G, N].
        c: C [1, T, G, N].
        options: those, `D` [H] and `initial_states` [1, H, P, N].

    Returns:
        y [1, T, H, P], and the state after the last token.
    """
    heads = hidden_states.shape[2]
    if options.get("dt_bias") is not None:
        dt = dt + options["dt_bias"].to(dt.dtype)
    if options.get("dt_softplus"):
        dt = softplus(dt)
    low, high = options.get("dt_limit", (0.0, float("inf")))
    dt_BTH = torch.clamp(dt, min=low, max=high).float()
    x = hidden_states.float()
    b, c = (m.float().repeat_interleave(heads // m.shape[2], dim=2, output_size=heads) for m in (b, c))
    decay_BHT = (a.to(x.dtype) * dt_BTH).transpose(1, 2)
    between = segment_decay(decay_BHT)
    from_start = decay_BHT.cumsum(-1).exp()
    state = options.get("initial_states")
    state = x.new_zeros(x.shape[0], heads, x.shape[3], b.shape[3]) if state is None else state.float()
    dx, b, c = ((m.transpose(1, 2)) for m in (x * dt_BTH[..., None], b, c))
    y = ((c @ b.transpose(-1, -2)) * between) @ dx + (c @ state.transpose(-1, -2)) * from_start[..., None]
    end = (dx * between[:, :, -1, :, None]).transpose(-1, -2) @ b + state * from_start[:, :, -1, None, None]
    y = y.transpose(1, 2).contiguous()  # callers view it
    return (y if options.get("D") is None else y + options["D"][..., None] * x), end


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """The gated delta rule, as transformers' `torch_chunk_gated_delta_rule` calls it.

    state = e^g state + k u^T with u = beta (v - e^g state^T k): each u reads those before it, so all of them solve one
    triangular system.

    Args:
        query: [1, T, heads of keys, N].
        key: [1, T, heads of keys, N].
        value: [1, T, H, P].
        g: logarithm of the decay [1, T, H].
        beta: [1, T, H].
        options: `initial_state` [1, H, N, P] and `use_qk_l2norm_in_kernel`.

    Returns:
        [1, T, H, P] in the query's type, and the state after the last token.
    """
    dtype, heads = query.dtype, value.shape[2]
    q, k = (m.repeat_interleave(heads // m.shape[2], dim=2, output_size=heads) for m in (query, key))
    q, k, v, b, decay = (m.transpose(1, 2).float() for m in (q, k, value, beta, g))
    if options.get("use_qk_l2norm_in_kernel"):
        q, k = (m * torch.rsqrt((m * m).sum(-1, keepdim=True) + 1e-6) for m in (q, k))
    q = q * q.shape[-1] ** -0.5
    between, from_start = segment_decay(decay), decay.cumsum(-1).exp()[..., None]
    state = options.get("initial_state")
    state = v.new_zeros(v.shape[0], heads, k.shape[-1], v.shape[-1]) if state is None else state.float()
    reads = (k @ k.transpose(-1, -2)) * between * b[..., None]
    asked = b[..., None] * (v - (k @ state) * from_start)
    u = torch.linalg.solve_triangular(reads, asked, upper=False, unitriangular=True)
    y = (q @ state) * from_start + ((q @ k.transpose(-1, -2)) * between) @ u
    end = state * from_start[:, :, -1:] + (k * between[:, :, -1, :, None]).transpose(-1, -2) @ u
    return y.transpose(1, 2).contiguous().to(dtype), end


CLOSED: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "mamba2_chunk_scan": mamba2,
    "torch_chunk_gated_delta_rule": gated_delta_rule,
}


def is_closed(model: nn.Module) -> bool:
    """Return whether a family's recurrence is one that this file has."""
    return any(name in vars(inspect.getmodule(type(model))) for name in CLOSED)


@contextlib.contextmanager
def in_closed_form(model: nn.Module) -> Iterator[None]:
    """Let a family's layers call these in place of its own, for as long as it is traced."""
    names = vars(inspect.getmodule(type(model)))
    before = {name: names[name] for name in CLOSED if name in names}
    try:
        names.update({name: CLOSED[name] for name in before})
        yield
    finally:
        names.update(before)
