"""Files that people bring: read whole and once, within a limit, and never waited for in vain."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from dipc.errors import BadFile

MOST_BYTES = 2**28
"""Of a file that is read into memory as a whole, by default."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PATIENCE_S = 1.0
"""How long somebody may take to begin to write to a pipe."""


def read_input(path: str | Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a file, or what comes out of a pipe until its end.

    Args:
        path: the file, or a link to it.
        most_bytes: more than so many are refused, before any is read where that can be known.

    Raises:
        FileNotFoundError: there is nothing of that name; what that means is the caller's to say.
        BadFile: anything else that keeps it from being read, in a line that names it.
    """
    handle = _opened(path)
    try:
        found = os.fstat(handle)
        if problem := _unreadable(found.st_mode):
            raise BadFile(f"{path}: {problem}")
        if stat.S_ISREG(found.st_mode) and found.st_size > most_bytes:
            raise BadFile(f"{path}: has {found.st_size:,} bytes, and at most {most_bytes:,} are read of such a file")
        begun = _begun(handle, path) if stat.S_ISFIFO(found.st_mode) else b""
        os.set_blocking(handle, True)
        content = begun + _up_to(handle, most_bytes + 1 - len(begun))
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    finally:
        os.close(handle)
    if content.startswith(_LFS_POINTER):
        raise BadFile(_pointer(path))
    if len(content) > most_bytes:
        raise BadFile(f"{path}: goes on after {most_bytes:,} bytes, and no more are read of such a file")
    return content


def check_input(path: str | Path, most_bytes: int | None = None) -> None:
    """Check that a file can be read, for a library that opens it by its name.

    Args:
        path: the file, or a link to it.
        most_bytes: more than so many are refused.

    Raises:
        FileNotFoundError: there is nothing of that name.
        BadFile: it is a folder, a pipe or a device, a Git LFS pointer, too large, or may not be read.
    """
    handle = _opened(path)
    try:
        found = os.fstat(handle)
        start = os.read(handle, len(_LFS_POINTER)) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    finally:
        os.close(handle)
    if not stat.S_ISREG(found.st_mode):
        raise BadFile(f"{path}: {_unreadable(found.st_mode) or 'cannot be read: it is a pipe or a device, not a file'}")
    if start == _LFS_POINTER:
        raise BadFile(_pointer(path))
    if most_bytes is not None and found.st_size > most_bytes:
        raise BadFile(f"{path}: has {found.st_size:,} bytes, and at most {most_bytes:,} are read of such a file")


def _pointer(path: str | Path) -> str:
    return f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"


def memory_bytes() -> int | None:
    """Return the size of this machine's memory, in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def is_there(path: Path) -> bool:
    """Return whether there is anything of that name, a link to nothing too. BadFile where that cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise BadFile(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return True


def _opened(path: str | Path) -> int:
    try:
        # Without O_NONBLOCK, to open a pipe is to wait until somebody writes to it.
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if os.path.islink(path):
            raise BadFile(f"{path}: is a link to {os.readlink(path)}, which is not there") from None
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise BadFile(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _unreadable(mode: int) -> str:
    """Say why nothing of that kind can be read, or nothing ("")."""
    if stat.S_ISDIR(mode):
        return "cannot be read: it is a folder, not a file"
    if stat.S_ISBLK(mode):
        return "cannot be read: it is a block device, not a file"
    return ""


def _begun(handle: int, path: str | Path) -> bytes:
    """Return the first bytes of a pipe, or none while somebody has it open who has not written yet."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            first = os.read(handle, 2**16)
        except BlockingIOError:
            return b""
        if first:
            return first
        if time.monotonic() >= until:
            raise BadFile(f"{path}: is a pipe that nobody writes to")
        time.sleep(0.01)


def _up_to(handle: int, count: int) -> bytes:
    parts = []
    while count > 0 and (part := os.read(handle, min(count, 2**20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
