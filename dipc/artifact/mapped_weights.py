"""Weights as a read-only map of their file: the system brings in what is read and lets go of it where memory is short.

safetensors' own loader maps the file too, but as pages that may be written, which the system must be able to hold in
full: of a file larger than memory it refuses the map. A page that cannot be written needs no room but its file.
"""

from __future__ import annotations

import json
import mmap
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dipc.artifact.weights_file import DTYPES


def map_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name; to write to one ends the process.

    Raises:
        OSError: the file cannot be read.
        SafetensorError, ValueError: it is not well formed, or has a type that no program does.
    """
    with safe_open(path, framework="numpy"):
        pass  # checks the header: sizes, offsets, no gaps, no overlaps
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    return {name: _tensor(content, start, about) for name, about in header.items()}


def _tensor(content: mmap.mmap, start: int, about: dict[str, Any]) -> Tensor:
    dtype, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"a tensor of {dtype}, which no program has")
    kind = DTYPES[dtype]
    if begin == end:
        return torch.empty(shape, dtype=kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        count = (end - begin) // kind.itemsize
        flat = torch.frombuffer(content, dtype=kind, count=count, offset=start + begin)
    return flat.reshape(shape)
