"""The standard streams of the process, as commands can rely on them: open, and with one error for what fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from dipc.errors import UsageError


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let a command print while the block runs.

    Raises:
        UsageError: stdout is closed, or does not take what is printed, as on a full disk.
        BrokenPipeError: nobody reads it any more.
    """
    _occupy_closed()
    before = sys.stdout, sys.stderr
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    try:
        if sys.stdout is None:
            raise UsageError("stdout is closed, and results are printed there; redirect it, if need be to /dev/null")
        if hasattr(sys.stdout, "reconfigure"):  # a name that is no Unicode, or that the terminal cannot print, is shown
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout = cast(TextIO, _Stdout(sys.stdout))
        yield
    finally:
        sys.stdout = before[0]
        sys.stderr = before[1] or sys.stderr


def discard_stdout() -> None:
    """Send what stdout still holds nowhere: the interpreter flushes it when it exits, and would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)


def _occupy_closed() -> None:
    """Give closed descriptors below 3 to the null device: a file that got one would be printed to."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


class _Stdout:
    """A text stream whose writes fail with a UsageError, all of them once one has: typer tries one and forgets it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failure: UsageError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._said():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._said():
            self._stream.flush()

    @contextmanager
    def _said(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_stdout()
            self._failure = UsageError(f"stdout: cannot be written: {error.strerror or error}")
            raise self._failure from error
