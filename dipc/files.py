"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from dipc.errors import UsageError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside its place, then rename it: never half of one under its own name.

    Args:
        path: where the file is to be; one that is there is replaced.
        write: writes the temporary file.

    Raises:
        UsageError: it cannot be written there.
    """
    from safetensors import SafetensorError

    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write(part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        part.unlink(missing_ok=True)
