"""Bits that a weight takes where it is stored: what memory traffic is priced by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import torch

from dipc.frontend.checkpoint import StoredTensor

_SCALES = ("_scale_inv", "_scale", ".scale")


@dataclass(frozen=True)
class StoredWidth:
    """Bits per value of a model's weights.

    Attributes:
        bits: of all weights but those in `own`, with the scales of quantised ones shared out among them.
        own: weights of another width than most matrices are of, by name: an embedding table beside weights in FP8, or
            norms in float32 beside weights in float16.
    """

    bits: float
    own: Mapping[str, float] = field(default_factory=dict)


def stored_width(tensors: Mapping[str, StoredTensor], names: Container[str] | None = None) -> StoredWidth:
    """The width of a checkpoint's tensors, each counted by what it takes.

    Args:
        tensors: all that is stored; scales count towards the weight whose name they begin with.
        names: of the model's parameters; one that is stored under another name counts towards the mean of the rest.
    """
    weights = {n: t for n, t in tensors.items() if t.is_float and not n.endswith(_SCALES)}
    scales = sum(t.bits * t.numel for n, t in tensors.items() if n.endswith(_SCALES))
    matrices = Counter(t.bits for t in weights.values() if len(t.shape) > 1)
    if not matrices:
        return StoredWidth(32.0)
    most = max(matrices, key=lambda bits: (matrices[bits], -bits))
    own = {
        name: tensor.bits
        for name, tensor in weights.items()
        if tensor.bits != most and (names is None or name in names)
    }
    rest = [tensor for name, tensor in weights.items() if name not in own]
    count = sum(tensor.numel for tensor in rest)
    return StoredWidth((sum(t.bits * t.numel for t in rest) + scales) / max(1, count), own)


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """The dtype that most values of a checkpoint are stored in; "" where none is a floating point number."""
    held: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.is_float:
            held[tensor.dtype] += tensor.numel
    return max(held, key=lambda dtype: held[dtype], default="")


def compute_dtype(stored: str, configured: torch.dtype | None) -> torch.dtype:
    """Return what weights are computed in unless a user says: bfloat16 and wider as stored, float16 widened to float32.

    Args:
        stored: the dtype that most are stored in.
        configured: what the config names, which decides for a narrower one: FP8 is widened to it, or to bfloat16.
    """
    if stored.startswith("float8"):
        return torch.float32 if configured in (torch.float16, torch.float32) else torch.bfloat16
    found = getattr(torch, stored, torch.float32)
    return torch.float32 if found == torch.float16 else found
