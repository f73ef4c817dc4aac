"""Recurrences in closed form beside their definitions, token by token.

Shape legend: T tokens, H heads, N rows and P columns of a state.
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from dipc.frontend.recurrences import gated_delta_rule, mamba2
from kit.runs import relative

H, N, P = 4, 3, 5


@given(tokens=st.integers(1, 40), groups=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99), begun=st.booleans())
@settings(max_examples=20, deadline=None)
def test_mamba2(tokens: int, groups: int, seed: int, begun: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, dt = torch.randn(1, tokens, H, P, generator=generator), torch.randn(1, tokens, H, generator=generator)
    a = -torch.rand(H, generator=generator)
    b, c = (torch.randn(1, tokens, groups, N, generator=generator) for _ in range(2))
    start = torch.randn(1, H, P, N, generator=generator) if begun else None
    d = torch.randn(H, generator=generator)
    y, end = mamba2(x, dt, a, b, c, D=d, dt_softplus=True, initial_states=start, chunk_size=8)

    state, expected = torch.zeros(H, P, N) if start is None else start[0], []
    for t in range(tokens):
        step = softplus(dt[0, t])[:, None, None]
        rows, reads = (m[0, t].repeat_interleave(H // groups, 0)[:, None] for m in (b, c))
        state = state * torch.exp(step * a[:, None, None]) + step * x[0, t][..., None] * rows
        expected.append((state * reads).sum(-1) + d[:, None] * x[0, t])
    assert relative(y[0], torch.stack(expected)) <= 1e-5 and relative(end[0], state) <= 1e-5


@given(tokens=st.integers(1, 40), seed=st.integers(0, 99), begun=st.booleans())
@settings(max_examples=20, deadline=None)
def test_gated_delta_rule(tokens: int, seed: int, begun: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, tokens, H // 2, N, generator=generator) for _ in range(2))
    v = torch.randn(1, tokens, H, P, generator=generator)
    g, beta = (torch.rand(1, tokens, H, generator=generator) for _ in range(2))
    start = torch.randn(1, H, N, P, generator=generator) if begun else None
    y, end = gated_delta_rule(q, k, v, -g, beta, initial_state=start, use_qk_l2norm_in_kernel=True)

    state, expected = torch.zeros(H, N, P) if start is None else start[0], []
    unit = [m * torch.rsqrt((m * m).sum(-1, keepdim=True) + 1e-6) for m in (q, k)]
    for t in range(tokens):
        asks, keys = (m[0, t].repeat_interleave(2, 0) for m in unit)
        state = state * torch.exp(-g[0, t])[:, None, None]
        error = beta[0, t][:, None] * (v[0, t] - (state * keys[..., None]).sum(1))
        state = state + keys[..., None] * error[:, None]
        expected.append((state * asks[..., None]).sum(1) * N**-0.5)
    assert relative(y[0], torch.stack(expected)) <= 1e-5 and relative(end[0], state) <= 1e-5
