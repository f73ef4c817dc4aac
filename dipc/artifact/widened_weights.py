"""Weights that are stored narrower than they are computed in, widened: in memory where that is small, else in a file.

A model that does not fit in memory is widened into a file without a name, beside the artifact or in the system's folder
for such files. The file is mapped, so the system writes pages out and brings them in as memory asks for it, and it is
gone with the process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from dipc.errors import BadFile
from dipc.input_file import memory_bytes
from dipc.quantities import format_bytes

_SHARE = 4
_PIECE = 2**22


def widen(narrow: Mapping[str, Tensor], folder: Path, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Weights in float32.

    Args:
        narrow: in float16 or bfloat16.
        folder: of the artifact.
        most_bytes: that they may take in memory; by default a quarter of this machine's.

    Raises:
        BadFile: they need a file, and no disk has room for it.
    """
    size = 4 * sum(weight.numel() for weight in narrow.values())
    if most_bytes is None:
        most_bytes = (memory_bytes() or 0) // _SHARE
    if size <= most_bytes:
        with contextlib.suppress(RuntimeError):  # so says torch where a limit of the process is below that
            return {name: weight.float() for name, weight in narrow.items()}
    return _in_file(narrow, size, folder)


def _in_file(narrow: Mapping[str, Tensor], size: int, folder: Path) -> dict[str, Tensor]:
    with _file_of(size, folder) as file:
        content = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.float32)
    counts = [weight.numel() for weight in narrow.values()]
    found: dict[str, Tensor] = {}
    for (name, weight), place in zip(narrow.items(), content.split(counts), strict=True):
        for to, piece in zip(place.split(_PIECE), weight.reshape(-1).split(_PIECE), strict=True):
            to.copy_(piece)
        found[name] = place.view(weight.shape)
    return found


def _file_of(size: int, folder: Path) -> IO[bytes]:
    """An unnamed file of that size whose blocks are there: a full disk is found here, not where a page is written."""
    for place in (folder, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            file = tempfile.TemporaryFile(dir=place, prefix=".dipc-")  # noqa: SIM115 - the caller closes it
            try:
                _reserve(file.fileno(), size)
            except OSError:
                file.close()
                raise
            return file
    raise BadFile(
        f"{folder}: its 16-bit weights are computed in float32 and take {format_bytes(size)} so, for which there is no "
        f"room in memory, beside them or in {tempfile.gettempdir()}; set TMPDIR to a folder on a larger disk"
    )


def _reserve(handle: int, size: int) -> None:
    os.truncate(handle, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
