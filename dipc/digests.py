"""The content of files as short text, for what depends on it rather than on where it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file, or of a folder's files by name."""
    made = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        made.update(b"" if file == path else str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                made.update(block)
    return made.hexdigest()[:16]


def options_by_content(item: Any) -> dict[str, Any]:
    """The fields of a pass; of a file or folder that an option names, the content's digest."""
    options = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    named = {n: Path(v) for n, v in options.items() if isinstance(v, str) and v and Path(v).exists()}
    return {**options, **{name: file_digest(path) for name, path in named.items()}}


def passes_digest(passes: Iterable[Any]) -> str:
    """The first 16 hex digits of the SHA-256 of passes with their options, files by content."""
    described = [(item.name, sorted(options_by_content(item).items())) for item in passes]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def described(item: Any) -> dict[str, Any]:
    """A pass by its name, its options by content, and the code of its file."""
    return {"name": item.name, **options_by_content(item), "code": code_digest(type(item))}


def code_digest(kind: type) -> str:
    """The first 16 hex digits of the SHA-256 of the file that a class is defined in."""
    return hashlib.sha256(inspect.getsource(inspect.getmodule(kind)).encode()).hexdigest()[:16]  # type: ignore[arg-type]
