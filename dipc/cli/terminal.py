"""The part that all commands share: their common options, and how they print."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.documents import JsonObject

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Progress = Callable[[int, int], None]


@dataclass
class Settings:
    """Settings of the whole command."""

    debug: bool = False
    quiet: bool = False

    def reset(self) -> None:
        """Forget the last command's."""
        self.debug = self.quiet = False


settings = Settings()


def _set_debug(value: bool) -> bool:
    if value:
        settings.debug = True
        warnings.simplefilter("default")
        logging.disable(logging.NOTSET)
    return value


def _set_quiet(value: bool) -> bool:
    settings.quiet = value
    return value


def _load_plugins(files: list[Path] | None) -> list[Path] | None:
    if files:
        from dipc.registry import load_plugin

        for file in files:
            load_plugin(file)
    return files


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Show no progress.")]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show tracebacks and libraries' warnings.")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        callback=_load_plugins,
        is_eager=True,
        help="A pass, policy, operator or backend (.py, its code is run) or a device (.yaml); may be repeated.",
    ),
]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="A compiled folder, or a model as `compile` takes it.")]
Dtype = Annotated[
    str, typer.Option(metavar="DTYPE", help="Compute in auto, float32, bfloat16 or float16 (models only).")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run model code that comes with the checkpoint.")
]


def console(*, stderr: bool = False) -> Console:
    """A console for stdout; in a pipe as wide as its text, so that nothing is cut or folded there."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 10_000
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(parts: Iterable[RenderableType]) -> None:
    """Print tables and text to stdout, without blanks at the ends of lines."""
    from dipc.quantities import NO_BREAK

    screen = console()
    with screen.capture() as capture:
        for part in parts:
            screen.print(part)
    for line in capture.get().splitlines():
        sys.stdout.write(line.replace(NO_BREAK, " ").rstrip() + "\n")


def show_json(document: JsonObject) -> None:
    """Print a result's dict to stdout as JSON."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on, while it does, on a terminal; call what it gives to change it."""
    if settings.quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with console(stderr=True).status(what) as status:
        yield lambda text: status.update(text)


@contextmanager
def counting(what: str | Callable[[], str], *, over_s: float = 30.0) -> Iterator[Progress]:
    """A progress bar on stderr, on a terminal; what it gives takes the number done and the number of all.

    Args:
        what: is going on.
        over_s: seconds over which the speed is taken that tells the time that is left.
    """
    if settings.quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import Progress as Bar

    say = what if callable(what) else lambda: what
    with Bar(console=console(stderr=True), transient=True, refresh_per_second=4, speed_estimate_period=over_s) as bar:
        task = bar.add_task(say(), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, description=say())
