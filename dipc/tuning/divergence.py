"""How far two models' distributions of the next token are apart.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(log_p_TV: Tensor, log_q_TV: Tensor, p_TV: Tensor) -> float:
    """KL(p || q) in nats, summed over tokens; what p rules out counts nothing, whatever q makes of it."""
    found = float((p_TV * (log_p_TV - log_q_TV)).sum())
    if math.isfinite(found):
        return found
    return float(torch.where(p_TV == 0, 0.0, p_TV * (log_p_TV - log_q_TV)).sum())
