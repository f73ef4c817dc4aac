"""Files and folders that are written whole or not at all, known by their content, and held by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dipc.errors import BadFile, UsageError

if sys.platform != "win32":
    import fcntl

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside its place, then rename it: never half of one under its own name.

    Args:
        path: where the file is to be; one that is there is replaced.
        write: writes the temporary file.

    Raises:
        UsageError: it cannot be written there.
    """
    part = _beside(path)
    try:
        with writing(path):
            write(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to be filled; it takes that name when the block ends well, and goes if not.

    Raises:
        UsageError: something is there, or it cannot be written.
    """
    check_output(path)
    staging = _beside(path)
    try:
        with writing(path):
            staging.mkdir()
            yield staging
            check_output(path)
            staging.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_output(path: Path) -> None:
    """UsageError unless a folder can be made at `path`: nothing there, and a folder above that takes files."""
    if os.path.lexists(path):
        raise UsageError(f"{path} exists; choose another folder or remove it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: nothing can be written in {path.parent}; choose another folder")


def _beside(path: Path) -> Path:
    """Return a hidden name for what is not whole yet, on the same filesystem as its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a filesystem refuses in the block into a UsageError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def file_digest(path: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of a file, or of a folder's files by name."""
    made = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        made.update(b"" if file == path else str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                made.update(block)
    return made.hexdigest()[:16]


def code_digest(kind: Callable[..., object]) -> str:
    """Return the first 16 hex digits of the SHA-256 of the file that a class or a function is defined in."""
    return hashlib.sha256(inspect.getsource(inspect.getmodule(kind)).encode()).hexdigest()[:16]  # type: ignore[arg-type]


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock of that name, waiting for whoever holds it; the file is gone afterwards.

    The system lets go of it when its holder ends, however it ends. On Windows there is none of these locks, and two
    processes may make the same thing twice.
    """
    if sys.platform == "win32":
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle, path):  # the last holder removed what was waited for
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def check_input(path: Path, most_bytes: int | None = None) -> None:
    """BadFile unless `path` is a regular file that can be read, holds something, and is no Git LFS pointer.

    Args:
        path: the file; links are followed.
        most_bytes: no such file is larger; what a reader would have to hold in memory.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise BadFile(f"{path}: not a regular file")
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from error
    if start == _LFS_POINTER:
        raise BadFile(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")
    if not start:
        raise BadFile(f"{path}: is empty")
    if most_bytes is not None and about.st_size > most_bytes:
        raise BadFile(f"{path}: {about.st_size:,} bytes, where at most {most_bytes:,} are expected")
