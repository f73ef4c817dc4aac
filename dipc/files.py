"""Files and folders that are written whole or not at all, known by their content, and held by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from dipc.errors import UsageError

if sys.platform != "win32":
    import fcntl

_DESCRIPTORS = re.compile(r"/proc/\d+(/task/\d+)?/fd|/dev/fd")
"""Folders of the files that a process has open; a link in one leads to something that may have no name."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside its place, then rename it: never half of one under its own name.

    A link stays a link, and what it leads to is replaced. A pipe or a device is no file that could be replaced: it is
    written to.

    Args:
        path: where the file is to be; one that is there is replaced.
        write: writes the temporary file.

    Raises:
        UsageError: it cannot be written there.
    """
    with writing(path):
        place = _place(path, path)
        if place is None:
            _write_through(path, write)
            return
        part = _beside(place)
        try:
            write(part)
            if place.exists():
                shutil.copymode(place, part)
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)


def check_output_file(path: Path, *, option: str = "", new: bool = False, inputs: Iterable[object] = ()) -> None:
    """Check that `write_whole` could write a file, before any work is done for it.

    Args:
        path: where the file is to be.
        option: that named it, for messages.
        new: refuse a file that is there already.
        inputs: names of files that are read for it; what is none is passed over.

    Raises:
        UsageError: it could not, or it is one of the files that are read.
    """
    name = Path(f"{option} {path}") if option else path
    with writing(name):
        place = _place(path, name)
        if place is None:
            return
        if new and place.exists():
            raise UsageError(f"{name} exists; choose another file or remove it")
        _check_parent(name, place.parent)
        given = [str(item) for item in inputs if item is not None and os.path.isfile(str(item))]
        if place.exists() and any(os.path.samefile(item, place) for item in given):
            raise UsageError(f"{name}: is read for this as well; choose another file to write")


def _check_parent(name: Path, folder: Path) -> None:
    """UsageError that begins with `name` unless the folder is there and takes files."""
    with writing(name):
        if not folder.is_dir():
            raise UsageError(f"{name}: there is no folder {folder}; create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{name}: nothing can be written in {folder}; choose another folder")


def _place(path: Path, name: Path) -> Path | None:
    """The place of a file at the end of its links; None for a pipe, a device or an open file, which are written to.

    Raises UsageError that begins with `name` for a folder and for what nothing is written to.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name}: cannot be written: it is a folder; name a file")
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name}: cannot be written: it is neither a file, a pipe nor a terminal; choose another file")
    while path.is_symlink():  # no circle: `stat` went through
        if _DESCRIPTORS.fullmatch(os.path.realpath(path.parent)):
            return None
        path = path.parent / os.readlink(path)
    return path


def _write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a pipe, a device or an open file, which take what they are given, without a whole or a half."""
    with tempfile.TemporaryDirectory(prefix="dipc-") as folder:
        part = Path(folder) / "part"
        write(part)
        with part.open("rb") as content, _stream(path) as stream:
            shutil.copyfileobj(content, stream)


def _stream(path: Path) -> IO[bytes]:
    """The stream of a pipe or a device; of our own stdout its descriptor, so that what is printed comes after."""
    for own in (sys.stdout, sys.stderr):
        try:
            own.flush()
            if os.path.samestat(os.fstat(own.fileno()), path.stat()):
                return os.fdopen(os.dup(own.fileno()), "wb")
        except (AttributeError, OSError, ValueError):  # there is none, or it is no file
            continue
    # Without O_CREAT and O_TRUNC: only what is there is written to, and nothing that it holds is lost.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb")


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
    _check_parent(path, path.parent)


def _beside(path: Path) -> Path:
    """Return a hidden name for what is not whole yet: on the same filesystem as its place, and not too long for it."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.tmp")


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
        with writing(path):
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
