"""Cache-aware selection, token by token: the scans in C++ and Triton, and the torch loop that defines it.

Shapes: T tokens, U units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipc import native
from dipc.cache.policy import get_policy
from dipc.errors import MissingDependency
from dipc.gpu import presence
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


def torch_scan(*, units: int, tokens: int, seed: int, threads: int, device: str = "cpu") -> Cases:
    """Set up the reference of `select_cache_aware`, a loop of torch calls."""
    torch.set_num_threads(threads)
    return _calling(OPERATOR.reference, units, tokens, seed, device)


def triton_scan(*, units: int, tokens: int, seed: int, threads: int) -> Cases:
    """Set up `select_cache_aware` on a GPU."""
    if presence.kernels() is None:
        raise MissingDependency(f"the GPU kernels are {presence.describe()}")
    assert OPERATOR.kernel is not None
    return _calling(OPERATOR.kernel, units, tokens, seed, "cuda")


def _calling(operator: Callable[..., Any], units: int, tokens: int, seed: int, device: str) -> Cases:
    scores, state, k = _inputs(units, tokens, seed)
    scores, on_device = [s.to(device) for s in scores], [s.to(device) for s in state]

    def call(number: int) -> NDArray[np.float32]:
        mask_TU: Tensor = operator(scores[number % len(scores)], *on_device, k, k, 0.2)[0]
        return mask_TU[-1].float().cpu().numpy()

    return {CASE: Case(call, tokens)}


def _inputs(units: int, tokens: int, seed: int) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor, Tensor], int]:
    """Return scores [T, U] for calls in turn, an empty cache, and half of the units."""
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(tokens, units, generator=generator).abs() for _ in range(4)]
    empty = torch.zeros(units, dtype=torch.bool), torch.zeros(units).long(), torch.full((units,), -1), torch.tensor(0)
    return scores, empty, units // 2
