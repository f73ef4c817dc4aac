"""Compare two programs by their logits on the same random tokens."""

from __future__ import annotations

import torch

from dipc.ir.finite import not_finite
from dipc.ir.program import Program
from dipc.ir.verify import empty_port


def probe_logits(program: Program, tokens: int = 12, seed: int = 0) -> torch.Tensor:
    """Logits [T, V] of one call on seeded random tokens, nothing left dense. NotFinite for NaN or infinity."""
    ids = torch.randint(program.info.vocab, (1, tokens), generator=torch.Generator().manual_seed(seed))
    values = []
    for port in program.inputs:
        if port.kind == "tokens":
            values.append(ids)
        elif port.kind == "positions":
            values.append(torch.arange(tokens)[None])
        else:
            values.append(empty_port(port, tokens, 0))
    with torch.no_grad():
        logits: torch.Tensor = program.module(*values)[0]
    if bool(logits.isnan().any() or logits.isposinf().any()):
        raise not_finite(program, ids[0])
    return logits[0].float()


def deviation(before: Program, after: Program) -> float:
    """Largest difference of logits, relative to the largest magnitude before."""
    reference, found = probe_logits(before), probe_logits(after)
    # A token may be ruled out, by minus infinity in both.
    difference = torch.where(found == reference, 0.0, found - reference)
    return float(difference.abs().max() / reference[reference.isfinite()].abs().max())
