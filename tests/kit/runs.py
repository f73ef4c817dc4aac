"""Short ways to run a program and to compare two runs.

Shape legend: T tokens, V vocabulary, U units of a site.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.api import Program
from dipc.backends.eager import EagerSession


def run_pieces(program: Program, ids_T: Tensor, piece: int) -> tuple[Tensor, dict[str, Tensor], EagerSession]:
    """Logits [T, V], masks [T, U] of every site, and the session, from calls of `piece` tokens."""
    session = EagerSession(program, record=True)
    steps = [session.step(chunk) for chunk in ids_T.split(piece)]
    masks = {site: torch.cat([s.masks[site] for s in steps]) for site in steps[0].masks}
    return torch.cat([s.logits for s in steps]), masks, session


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def agreement(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The fraction of mask bits that are the same."""
    same = sum(int((a[site] == b[site]).sum()) for site in b)
    return same / sum(mask.numel() for mask in b.values())
