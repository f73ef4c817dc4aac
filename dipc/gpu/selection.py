"""The selections on a GPU: what the kernels cover, and the steps around a launch.

Shapes: T tokens, U units of a selection site.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.gpu.arguments import Rule, State
from dipc.gpu.presence import kernels

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_UNITS = 2**15
"""A site lies in the registers of one program, and Triton takes too long to compile a larger one."""


def covers_scores(score: Tensor) -> bool:
    """Return whether the scan can stand in for its torch reference, where the policy's key is a weighted sum."""
    # A fake tensor says that it is on a GPU, and has no memory there.
    if type(score) is not Tensor or not score.is_cuda or score.dtype not in DTYPES:
        return False
    return 0 < score.shape[-1] <= MOST_UNITS and kernels() is not None


def select_cache_aware(
    score_TU: Tensor, state: State, rule: Rule, *, k: int, capacity: int, gamma: float, dense_T: Tensor | None = None
) -> tuple[Tensor, State]:
    """Choose k units per token, preferring cached ones, and give the cache state after them (Eq. 10, Algorithm 1).

    Args:
        score_TU: float32, float16 or bfloat16, on the device of all the others.
        state: the cache before the first token, its `cached` bool[U].
        rule: who stays.
        k: units per token, 0 <= k <= U.
        capacity: units that fit, 0 <= capacity <= U.
        gamma: the factor on scores of units outside the cache.
        dense_T: bool; where true the token's mask is full and the state stays as it is.

    Returns:
        The masks, bool[T,U], and the state after them. The arguments are left alone, and nothing waits for the device.
    """
    from dipc.gpu import cache_scan

    score_TU = score_TU.detach().contiguous()
    if dense_T is None:
        dense_T = torch.zeros(len(score_TU), dtype=torch.bool, device=score_TU.device)
    cached, *counts = (tensor.contiguous() for tensor in state)
    before = State(cached.view(torch.uint8), *counts)
    # The factor as the scores' type has it, as in the reference.
    factor = torch.full((), gamma, dtype=score_TU.dtype).item()
    with torch.cuda.device_of(score_TU):
        mask_TU, after = cache_scan.scan(
            score_TU, dense_T.contiguous().view(torch.uint8), before, rule, k, capacity, factor
        )
    return mask_TU.view(torch.bool), after._replace(cached=after.cached.view(torch.bool))
