"""transformers' own numbers, call by call, to hold a captured program to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dipc.api import Program
from dipc.backends.eager import EagerSession
from kit.runs import relative


def called(model: nn.Module, pieces: Sequence[Tensor]) -> Tensor:
    """Logits [T, V] of a model that is fed these pieces one after the other, with a cache of its own."""
    past, seen, logits = None, 0, []
    with torch.no_grad():
        for piece in pieces:
            positions = torch.arange(seen, seen + len(piece))[None]
            answer = model(piece[None], position_ids=positions, past_key_values=past, use_cache=True)
            past, seen = answer.past_key_values, seen + len(piece)
            logits.append(answer.logits[0].float())
    return torch.cat(logits)


def deviation_from(model: nn.Module, program: Program, pieces: Sequence[Tensor]) -> float:
    """Largest relative difference of a program's logits from the model's, both fed these pieces."""
    session = EagerSession(program)
    return relative(torch.cat([session.step(piece).logits for piece in pieces]), called(model, pieces))
