"""The GGUF container: metadata and where each tensor lies, of one file or of all the parts of a split one.

Read here rather than by the package `gguf`, whose reader makes several objects of every token of a vocabulary (seconds
of every start) and looks at no file's end. Layout: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.gguf.types import TYPES, TensorForm
from dipc.input_file import check_input

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_MOST_DIMS = 8


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as it is stored.

    Attributes:
        shape: outermost dim first, as torch counts them.
        form: its storage type.
        data: its bytes, mapped from the file.
    """

    shape: tuple[int, ...]
    form: TensorForm
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """A model in GGUF: what its file, or the first of its parts, says, and the tensors of all parts by name.

    Attributes:
        path: of the file, or of the first part.
        metadata: its values by their keys.
        tensors: all tensors.
        entries: each metadata entry as it stands in the file, key and type included.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    entries: Mapping[str, memoryview]

    @property
    def architecture(self) -> str:
        """The family's name in GGUF's words."""
        return str(self.metadata["general.architecture"])


def read_gguf(path: Path) -> GgufFile:
    """Read a GGUF file's metadata and map its tensors; of a split model any part may be given.

    Raises:
        BadFile: it is no GGUF file, truncated or damaged, or a part is missing or of another model.
        UnsupportedModel: a version, byte order or storage type that is not read.
    """
    parts = _parts(path)
    first = _read(parts[0])
    tensors = dict(first.tensors)
    for part in parts[1:]:
        more = _read(part)
        if again := sorted(set(more.tensors) & set(tensors)):
            raise BadFile(f"{part}: holds {again[0]}, which another part holds too")
        tensors |= more.tensors
    said = first.metadata.get("split.count", 1)
    if said not in (len(parts), 0):
        raise BadFile(
            f"{parts[0]}: says that it is one of {said} parts; their names must end in -00001-of-{said:05d}.gguf "
            "and so on"
        )
    total = first.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise BadFile(f"{parts[0]}: its parts hold {len(tensors)} tensors and should hold {total}")
    return dataclasses.replace(first, tensors=tensors)


def _parts(path: Path) -> list[Path]:
    parts = parts_of(path)
    if missing := [part for part in parts if len(parts) > 1 and not part.exists()]:
        raise BadFile(f"{missing[0]}: is missing; the model is split into {len(parts)} files, which must lie together")
    return parts


def parts_of(path: Path) -> list[Path]:
    """Return the files of a model by the name of any of them: `-00001-of-00003.gguf` is the first of three."""
    if (split := _PART.fullmatch(path.name)) is None:
        return [path]
    return [path.with_name(f"{split[1]}-{n:05d}-of-{split[3]}.gguf") for n in range(1, int(split[3]) + 1)]


def is_later_part(path: Path) -> bool:
    """Tell a part of a split model that is not its first."""
    split = _PART.fullmatch(path.name)
    return split is not None and int(split[2]) != 1


def _read(path: Path) -> GgufFile:
    check_input(path)
    if path.stat().st_size < 24:
        raise BadFile(f"{path}: no GGUF file, or truncated: it has {path.stat().st_size} bytes")
    content = np.memmap(path, np.uint8, "r")
    try:
        return _Cursor(path, content).file()
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise BadFile(f"{path}: truncated or damaged GGUF file: {error}") from error


class _Cursor:
    """A place in the bytes of one file, moved on by reading."""

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path, self.content, self.place = path, memoryview(content.data), 0

    def file(self) -> GgufFile:
        if bytes(self.content[:4]) != b"GGUF":
            raise BadFile(f"{self.path}: no GGUF file: it does not begin with GGUF")
        self.place = 4
        version = self.number("I")
        if version not in (2, 3):
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3):
                raise UnsupportedModel(
                    f"{self.path}: is big-endian, which is not read; convert it with `gguf-convert-endian FILE little`"
                )
            raise UnsupportedModel(f"{self.path}: is GGUF version {version}; versions 2 and 3 are read")
        tensors, entries = self.number("Q"), self.number("Q")
        metadata: dict[str, Any] = {}
        raw: dict[str, memoryview] = {}
        for _ in range(entries):
            start, key = self.place, self.string()
            if key in metadata:
                raise BadFile(f"{self.path}: says {key} twice")
            metadata[key] = self.value(self.number("I"))
            raw[key] = self.content[start : self.place]
        if not isinstance(metadata.get("general.architecture"), str) and "split.no" not in metadata:
            raise BadFile(f"{self.path}: does not say its general.architecture")
        table = [self.tensor_entry() for _ in range(tensors)]
        align = metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1 or align & (align - 1):
            raise BadFile(f"{self.path}: general.alignment {align} is no power of two")
        start = -(-self.place // align) * align
        return GgufFile(self.path, metadata, self.mapped(table, start), raw)

    def number(self, code: str) -> Any:
        size = struct.calcsize(f"<{code}")
        (value,) = struct.unpack_from(f"<{code}", self.content, self.place)
        self.place += size
        return value

    def take(self, count: int) -> memoryview:
        if count > len(self.content) - self.place:
            raise BadFile(f"{self.path}: truncated or damaged GGUF file: it ends at byte {len(self.content):,}")
        self.place += count
        return self.content[self.place - count : self.place]

    def string(self) -> str:
        return bytes(self.take(self.number("Q"))).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise BadFile(f"{self.path}: holds a value of the unknown type {kind} at byte {self.place:,}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            code = _NUMBERS[inner]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}"))))
        if inner not in (_STRING, _ARRAY) or count > len(self.content):
            raise BadFile(f"{self.path}: holds an array of the unknown type {inner} at byte {self.place:,}")
        return [self.string() if inner == _STRING else self.value(inner) for _ in range(count)]

    def tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self.string(), self.number("I")
        if dims > _MOST_DIMS:
            raise BadFile(f"{self.path}: {name} has {dims} dims")
        shape = tuple(self.number("Q") for _ in range(dims))[::-1]
        return name, shape, self.number("I"), self.number("Q")

    def mapped(self, table: list[tuple[str, tuple[int, ...], int, int]], start: int) -> dict[str, GgufTensor]:
        found: dict[str, GgufTensor] = {}
        content = np.asarray(self.content)
        for name, shape, number, offset in table:
            if (form := TYPES.get(number)) is None:
                raise UnsupportedModel(f"{self.path}: {name} is stored as ggml type {number}, which is not read")
            if name in found:
                raise BadFile(f"{self.path}: holds {name} twice")
            if shape and shape[-1] % form.block:
                raise BadFile(f"{self.path}: {name} {list(shape)} is no whole number of {form.name} blocks")
            begin, size = start + offset, math.prod(shape) // form.block * form.size
            if begin + size > len(content):
                raise BadFile(
                    f"{self.path}: truncated: {name} ends at byte {begin + size:,} and the file at {len(content):,}"
                )
            found[name] = GgufTensor(shape, form, content[begin : begin + size])
        return found
