"""`weights.safetensors`: written tensor by tensor, each in a dtype of its own, so that no second model is in memory.

safetensors' own writer wants all tensors at once, in the dtypes that they are written in. This one writes the same
bytes: the header's length, the header, then the tensors, by dtype and by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Of a program's weights, by their names in the file and in its order."""
_PIECE = 2**22
_ALIGNMENT = 8


def write_weights(path: Path, weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
    """Write weights; each is converted to its dtype on the way, a piece at a time.

    Args:
        path: the new file.
        weights: by name, on any device.
        dtypes: of each in the file, one of `DTYPES`.
    """
    spelled = {dtype: name for name, dtype in DTYPES.items()}
    rank = {dtype: place for place, dtype in enumerate(DTYPES.values())}
    order = sorted(weights, key=lambda name: (rank[dtypes[name]], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        begin, end = end, end + weights[name].numel() * dtypes[name].itemsize
        about = {"dtype": spelled[dtypes[name]], "shape": list(weights[name].shape), "data_offsets": [begin, end]}
        header[name] = about
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in weights[name].detach().reshape(-1).split(_PIECE):
                file.write(piece.to(dtypes[name]).cpu().contiguous().view(torch.uint8).numpy().data)
