"""The GGUF file that a folder or a hub repository means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dipc.errors import BadFile, UsageError
from dipc.frontend.gguf.container import is_later_part


def gguf_in(folder: Path) -> Path:
    """Return the one model in GGUF of a folder; of a split one, its first part.

    Raises:
        BadFile: there is none.
        UsageError: there are several.
    """
    found = models_among(sorted(path.name for path in folder.glob("*.gguf")))
    if not found:
        raise BadFile(f"{folder}: neither a config.json nor a GGUF file in this folder, so it is no model")
    if len(found) > 1:
        raise UsageError(f"{folder}: holds several models, {', '.join(found[:8])}; give one of the files")
    return folder / found[0]


def models_among(names: Sequence[str]) -> list[str]:
    """Return the files that are a model's, or its first part: no later part, and no vision part beside the model."""
    return [name for name in names if not is_later_part(Path(name)) and not Path(name).name.startswith("mmproj")]
