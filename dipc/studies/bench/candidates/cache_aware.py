"""Cache-aware selection, token by token: the native scan and the torch loop that defines it.

Shapes: T tokens, U units.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipc import native
from dipc.cache.policy import get_policy
from dipc.native.call import opened
from dipc.ops.select_cache_aware import OPERATOR
from dipc.studies.bench.candidates.case import Case, Cases

CASE = "scan"


def native_scan(*, units: int, tokens: int, seed: int, threads: int) -> Cases:
    """Set up `dipc.native.select_cache_aware`; half of the units are kept and fit."""
    opened()
    scores, state, k = _inputs(units, tokens, seed)
    rows, start = [s.numpy() for s in scores], native.State(*(s.numpy() for s in (*state[:3], state[3].reshape(1))))
    policy = get_policy("lfu").native_number
    assert policy is not None

    def call(number: int) -> NDArray[np.float32]:
        row = rows[number % len(rows)]
        found, _ = native.select_cache_aware(row, start, k=k, capacity=k, gamma=0.2, policy=policy)
        mask: NDArray[np.float32] = found[-1].astype(np.float32)
        return mask

    return {CASE: Case(call, tokens)}


def torch_scan(*, units: int, tokens: int, seed: int, threads: int) -> Cases:
    """Set up the reference of `select_cache_aware`, a loop of torch calls."""
    torch.set_num_threads(threads)
    scores, state, k = _inputs(units, tokens, seed)

    def call(number: int) -> NDArray[np.float32]:
        mask_TU: Tensor = OPERATOR.reference(scores[number % len(scores)], *state, k, k, 0.2)[0]
        return mask_TU[-1].float().numpy()

    return {CASE: Case(call, tokens)}


def _inputs(units: int, tokens: int, seed: int) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor, Tensor], int]:
    """Return scores [T, U] for calls in turn, an empty cache, and half of the units."""
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(tokens, units, generator=generator).abs() for _ in range(4)]
    empty = torch.zeros(units, dtype=torch.bool), torch.zeros(units).long(), torch.full((units,), -1), torch.tensor(0)
    return scores, empty, units // 2
