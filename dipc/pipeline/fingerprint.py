"""Passes as what depends on them sees them: their options, with named files by content, and their code."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dipc.files import code_digest, file_digest


def options_by_content(item: Any) -> dict[str, Any]:
    """Return the fields of a pass; of a file or folder that an option names, the content's digest."""
    options = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    named = {n: Path(v) for n, v in options.items() if isinstance(v, str) and (os.path.isfile(v) or os.path.isdir(v))}
    return {**options, **{name: file_digest(path) for name, path in named.items()}}


def passes_digest(passes: Iterable[Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of passes with their options, files by content."""
    described = [(item.name, sorted(options_by_content(item).items())) for item in passes]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def described(item: Any) -> dict[str, Any]:
    """Return a pass by its name, its options by content, and the code of its file."""
    return {"name": item.name, **options_by_content(item), "code": code_digest(type(item))}
