"""A folder of cells: what they are about, and what each finished run gave in a file of its own.

A file is written beside its place and renamed: what was killed leaves the cells that it had finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dipc import documents
from dipc.documents import JsonObject, json_bytes
from dipc.errors import BadFile, UsageError
from dipc.files import write_whole
from dipc.input_file import is_there, read_input

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Names: of the whole in messages, of the file that says what it is about, and of the folder of its cells."""

    kind: str
    about: str
    cells: str


class Folder:
    """A folder of cells, made if need be.

    Args:
        path: of the folder.
        about: what all cells share, by the name that messages give it.
        layout: whose folder it is.

    Raises:
        UsageError: it cannot be written, holds something else, or other cells; the message says what differs.
    """

    def __init__(self, path: Path, about: Mapping[str, object], layout: Layout) -> None:
        self.path, self.layout = path, layout
        if os.path.lexists(path) and not os.path.isdir(path):
            raise UsageError(f"{path}: this is a file; name a folder")
        try:
            # A process that was killed may have left a hidden file before it wrote the first one under its name.
            others = path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir())
            if others and not is_there(path / layout.about):
                raise UsageError(f"{path}: holds other files and no {layout.kind}; name a new folder")
            path.mkdir(parents=True, exist_ok=True)
            self.agree(layout.about, about)
            (path / layout.cells).mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: cannot be made: {error.strerror}") from error

    def agree(self, name: str, about: Mapping[str, object]) -> None:
        """Write what something was made from; UsageError if it was made from something else before."""
        if is_there(self.path / name):
            held = read_json(self.path / name)
            for key, value in about.items():
                if held.get(key) != value:
                    raise UsageError(
                        f"{self.path}: holds a {self.layout.kind} with {key} {_text(held.get(key))}, and this one has "
                        f"{_text(value)}; name another folder"
                    )
        self.write(name, json_bytes({"schema": SCHEMA, **about}))

    def write(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all."""
        target = self.path / name
        write_whole(target, lambda part: part.write_bytes(content))
        return target

    def read(self, label: str, depends_on: Mapping[str, object]) -> JsonObject | None:
        """The figures of a cell that was finished before, or None."""
        path = self.file(label, depends_on)
        if not is_there(path):
            return None
        held = read_json(path)
        # A file that says something else than its name was put there by hand.
        if held.get("depends_on") != _plain(depends_on) or "figures" not in held:
            return None
        if not isinstance(held["figures"], dict):
            raise BadFile(f"{path}: its figures are none; remove it, and they are made again")
        return held["figures"]

    def read_as(self, kind: type[T], label: str, depends_on: Mapping[str, object]) -> T | None:
        """The figures of a cell as what they are, or None. BadFile where they are something else."""
        held = self.read(label, depends_on)
        try:
            return None if held is None else TypeAdapter(kind).validate_python(held)
        except ValidationError as error:
            where = self.file(label, depends_on)
            what = documents.first_problem(error)
            raise BadFile(f"{where}: figures: {what}; remove it, and they are made again") from error

    def keep(self, label: str, depends_on: Mapping[str, object], figures: Mapping[str, object]) -> None:
        """Keep the figures of a cell."""
        kind = f"{self.layout.kind}-cell"
        content = {"schema": SCHEMA, "kind": kind, "depends_on": depends_on, "figures": figures}
        write_whole(self.file(label, depends_on), lambda part: part.write_bytes(json_bytes(content)))

    def file(self, label: str, depends_on: Mapping[str, object]) -> Path:
        """The file of a cell."""
        return self.path / self.layout.cells / f"{file_stem(label, depends_on)}.json"


def file_stem(label: str, depends_on: Mapping[str, object]) -> str:
    """A label, to be found by people, and the hash of what is behind it."""
    digest = hashlib.sha256(json.dumps(_plain(depends_on), sort_keys=True).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^a-z0-9.]+', '-', label.lower()).strip('-')[:60]}-{digest}"


def read_json(path: Path) -> JsonObject:
    """The JSON object in a file of the folder. BadFile if it is none, or of a newer schema."""
    try:
        held = documents.read_json(read_input(path), path)
    except FileNotFoundError:
        raise BadFile(f"{path}: is not there any more; try again") from None
    except BadFile as error:
        raise BadFile(f"{error}; remove it, and what it held is made again") from error
    schema = held.get("schema")
    if type(schema) is not int or schema < 1:
        raise BadFile(f"{path}: schema {schema!r} is no whole number from 1; remove it, and what it held is made again")
    if schema > SCHEMA:
        raise BadFile(f"{path}: written by a newer dipc (schema {schema}, this one reads {SCHEMA}); upgrade dipc")
    return held


def _plain(value: Mapping[str, object]) -> Any:
    return json.loads(json_bytes(value))


def _text(value: object) -> str:
    return "none" if value is None else str(value)
