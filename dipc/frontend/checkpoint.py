"""The weight files of a model: which they are, and what tensors they hold, from their headers alone.

The files are looked for as transformers does, safetensors before pickles, and nothing but tensors is unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from dipc.errors import BadFile
from dipc.frontend.model_json import check_model_file, read_object
from dipc.frontend.tracer import first_line

NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

Find = Callable[[str], Path | None]
"""The file of a model by its name in the model's folder; None where there is none."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it is stored: its dtype in torch's words, its shape, and bits per value."""

    dtype: str
    shape: tuple[int, ...]
    bits: float

    @property
    def numel(self) -> int:
        """Values in it."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Its values are floating point numbers."""
        return self.dtype.startswith(("float", "bfloat"))


def stored_tensors(where: str, find: Find, explicit: str | None = None) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint by its name in the files.

    Args:
        where: what messages call the model.
        find: its files.
        explicit: the file that its config names, in place of the usual ones.

    Raises:
        BadFile: no weights, a shard or one of its tensors is missing, or a file is damaged.
    """
    for name in (explicit,) if explicit else NAMES:
        if (path := find(name)) is not None:
            return _sharded(path, find) if name.endswith(".index.json") else _read(path)
    raise BadFile(f"{where}: no weights beside config.json: none of {', '.join((explicit,) if explicit else NAMES)}")


def read_tensors(where: str, find: Find, explicit: str | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint that `stored_tensors` has looked at, mapped from its files.

    Raises:
        BadFile: a file is damaged.
    """
    for name in (explicit,) if explicit else NAMES:
        if (path := find(name)) is None:
            continue
        shards = sorted(set(read_object(path)["weight_map"].values())) if name.endswith(".index.json") else [name]
        found: dict[str, torch.Tensor] = {}
        for file in filter(None, map(find, shards)):
            found |= _values(file)
        return found
    raise BadFile(f"{where}: no weights beside config.json")


def _values(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # What a damaged file can make torch raise has no common base.
        raise BadFile(f"{path}: damaged: {first_line(error)}") from error
    return content


def _sharded(index: Path, find: Find) -> dict[str, StoredTensor]:
    placed = read_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise BadFile(f"{index}: its weight_map must say which file each tensor is in")
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(placed.values())):
        if ".." in PurePosixPath(shard).parts or PurePosixPath(shard).is_absolute():
            raise BadFile(f"{index}: {shard!r} is outside of the model's folder")
        if (path := find(shard)) is None:
            first = min(name for name, file in placed.items() if file == shard)
            raise BadFile(f"{index.parent / shard}: is missing; {index.name} says that it holds {first}")
        held = _read(path)
        if absent := sorted(name for name, file in placed.items() if file == shard and name not in held):
            raise BadFile(f"{path}: has no {absent[0]}, which {index.name} says that it holds")
        found |= held
    return found


def _read(path: Path) -> dict[str, StoredTensor]:
    check_model_file(path)
    if path.suffix == ".safetensors":
        try:
            return dict(_safetensors(path))
        except (OSError, SafetensorError) as error:
            raise BadFile(f"{path}: damaged, or no safetensors file: {first_line(error)}") from error
    try:
        return dict(_pickled(path))
    except Exception as error:  # What a damaged pickle can make torch raise has no common base.
        why = first_line(error) if isinstance(error, ValueError) else "torch cannot read it"
        raise BadFile(
            f"{path}: damaged, or holds more than tensors, which is not unpickled: {why}; if you trust it, load it "
            "with transformers and save it with save_pretrained, which writes safetensors"
        ) from error


def _safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            tensor = file.get_slice(name)
            spelled = tensor.get_dtype()
            if not (width := re.match(r"([A-Z]+)(\d*)", spelled)):
                raise SafetensorError(f"{name} is of the unknown dtype {spelled}")
            kind = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}.get(width[1], spelled)
            bits = width[2] or ("8" if kind == "bool" else "0")
            dtype = f"{kind}{width[2]}{spelled[width.end() :].lower()}"
            yield name, StoredTensor(dtype, tuple(tensor.get_shape()), float(bits))


def _pickled(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    content = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(content, Mapping) or not content:
        raise ValueError("it holds no tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{str(name)[:80]!r} is no tensor")
        yield name, stored_as(tensor)


def stored_as(tensor: torch.Tensor) -> StoredTensor:
    """The form of a tensor in memory."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(dtype, tuple(tensor.shape), 8.0 * tensor.element_size())
