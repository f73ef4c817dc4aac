"""Every way a command can end, as an exit code and at most one line on stderr."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import Any

import typer

from dipc.cli.standard_streams import discard_stdout, standard_streams
from dipc.cli.terminal import settings
from dipc.errors import BadFile, DipcError, DipcWarning

INTERRUPTED = 130
BROKEN_PIPE = 141
USAGE = 2
LONGEST = 2000
"""Characters of a message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` are those of the process by default."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings.reset()
    with _quiet_libraries():
        try:
            return _finish(lambda: _run(given))
        except BrokenPipeError:
            return _broken_pipe()


def _run(arguments: list[str]) -> int:
    from dipc.cli.app import app

    with standard_streams():
        stdout = sys.stdout
        try:
            code = app(_optional_values(arguments), prog_name="dipc", standalone_mode=False)
        except SystemExit:
            # typer ends so, with its own code and wrapped streams, where nobody reads stdout any more.
            raise BrokenPipeError from None
        stdout.flush()
    return code if isinstance(code, int) else 0


def _optional_values(arguments: list[str]) -> list[str]:
    """`--dump-after` by itself means every pass; typer knows no option whose value may be left out."""
    found = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        alone = argument == "--dump-after" and following.startswith("-")
        found.append("--dump-after=all" if alone else argument)
    return found


def _finish(command: Callable[[], int]) -> int:
    try:
        code = command()
    except BrokenPipeError:
        raise
    except DipcError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            return 0
        # typer's own errors have no public base class in every version that we allow.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _fail(_usage_text(error), USAGE)
        if isinstance(error, OSError) and error.filename is not None:
            # What the system says of a file is about what was brought, wherever it was met.
            return _fail(f"{error.filename}: {error.strerror or error}", BadFile.exit_code)
        hint = "" if settings.debug else " (run with --debug for the traceback)"
        return _fail(f"internal error: {type(error).__name__}: {error}{hint}", 1)
    return _fail("interrupted", code) if code == INTERRUPTED else code


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # where nobody takes stderr either, the code has to do
        if settings.debug:
            traceback.print_exc()
        print(f"dipc: {one_line(message)}", file=sys.stderr)
    return code


def one_line(message: str) -> str:
    """Return a message as a line for a terminal: nothing that a file holds is a command there, or fills it."""
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 500]} ... {line[-400:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _usage_text(error: Any) -> str:
    """typer's message in one line, the command in front, with what was probably meant."""
    context = getattr(error, "ctx", None)
    message = str(error.format_message()).strip().rstrip(".")
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option and context is not None:
        known = [name for p in context.command.params for name in p.opts if name.startswith("--")]
        close = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
        guess = f"; did you mean {close[0]}?" if close else ""
        message = f"there is no option {option}{guess} (known: {', '.join(sorted(known))})"
    command = context.command_path if context is not None else ""
    where = command.removeprefix("dipc").strip()
    return f"{where}: {message}" if where else message


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the terminal to ourselves: what torch and transformers warn of is for `--debug`."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DipcWarning)
            warnings.showwarning = _print_once(warnings.showwarning)
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(before)


def _print_once(others: Callable[..., None]) -> Callable[..., None]:
    """Print our own warnings, each once and in a line of its own, and leave the rest to `others`."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DipcWarning):
            others(message, category, *where, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            print(f"dipc: warning: {one_line(str(message))}", file=sys.stderr)

    return show


def _broken_pipe() -> int:
    discard_stdout()
    return BROKEN_PIPE
