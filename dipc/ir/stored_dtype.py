"""The dtype that a weight is stored in: the checkpoint's own where it is narrower than what is computed in.

A checkpoint in float16 is computed in float32 on a CPU, which changes no value. So its weights go back into 16 bits in
files, exactly, and are widened again where they are read. A weight that a pass has changed stays as wide as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dipc.ir.program import ModelInfo
from dipc.ir.weight_parts import weight_of

NARROW = (torch.float16, torch.bfloat16)
"""What a float32 weight may be stored in, in the order in which they are tried."""
_PIECE = 2**20


def stored_dtype(name: str, weight: Tensor, info: ModelInfo) -> torch.dtype:
    """The narrowest dtype that holds a weight exactly.

    Only a float32 weight of a checkpoint that has it in at most 16 bits is looked at; any other keeps its dtype, and so
    does one without values.
    """
    if weight.dtype != torch.float32 or weight.device.type == "meta" or info.bits_of(weight_of(name)) > 16:
        return weight.dtype
    flat = weight.detach().reshape(-1)
    return next((dtype for dtype in NARROW if _survives(flat, dtype)), weight.dtype)


def _survives(flat: Tensor, dtype: torch.dtype) -> bool:
    """Return whether all values come back from a narrower dtype as they were; ends at the first piece that does not."""
    return all(torch.equal(piece.to(dtype).float(), piece) for piece in flat.split(_PIECE))


def stored_bytes(weights: Mapping[str, Tensor], info: ModelInfo) -> int:
    """Bytes that weights take in an artifact."""
    return sum(w.numel() * stored_dtype(name, w, info).itemsize for name, w in weights.items())
