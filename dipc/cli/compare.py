"""`dipc compare`: every method on one model, in one fair table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.bench import densities
from dipc.cli.eval import SeqLen, TextFile
from dipc.cli.terminal import (
    MOST_SEED,
    Debug,
    Dtype,
    Json,
    Plugins,
    Quiet,
    TrustRemoteCode,
    settings,
    show,
    show_json,
    working,
)
from dipc.errors import DipcError

if TYPE_CHECKING:
    from dipc.comparison import Comparison


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The dense model: demo, a folder, a Hugging Face id.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Keeps all results; a rerun goes on.")],
    methods: Annotated[
        str | None, typer.Option(metavar="LIST", help="all, paper, or names such as dip,cats; by default all.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A row of your own, DENSITY standing for the density: 'int4,dip{density=DENSITY}'; may be repeated.",
        ),
    ] = None,
    density: Annotated[str, typer.Option(metavar="LIST", help="Kept shares of the MLPs' weights.")] = "0.6,0.5,0.4",
    text: TextFile = None,
    seq_len: SeqLen = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Use only so many tokens from the start.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `dipc calibrate` wrote for this model.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of calibration and training.")] = 0,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods: perplexity, distance to the dense model, density and bytes, a table per density.

    Writes table.md, table.json and a plot to the folder. A method that cannot do what is asked has its reason in the
    table; if something fails, the others are shown and the exit code is 1.
    """
    from dipc.registry import load_installed_plugins
    from dipc.text import read_text

    load_installed_plugins()
    given = None if text is None else read_text(text)
    chosen = [
        *([m for m in (methods or "").split(",") if m.strip()] if methods or method else ["all"]),
        *(method or ()),
    ]
    from dipc import api
    from dipc.report.comparison import comparison_dict, comparison_tables

    with working(f"opening {model}"):
        program = api.capture(model, dtype=dtype, trust_remote_code=trust_remote_code)
    with _cells() as progress:
        found = api.compare(
            program,
            chosen,
            densities(density),
            out=out,
            text=given,
            seq_len=seq_len,
            max_tokens=max_tokens,
            calibration=calibration,
            seed=seed,
            progress=progress,
        )
    if json:
        show_json(comparison_dict(found))
    else:
        show(comparison_tables(found))
    if found.failures:
        raise DipcError(_failures(found))


def _failures(found: Comparison) -> str:
    said = "; ".join(
        f"{row.label} {'' if row.density is None else f'{row.density:g}'}: {row.reason}" for row in found.failures[:3]
    )
    count = len(found.failures)
    more = f"; and {count - 3} more" if count > 3 else ""
    return f"compare: {count} of {len(found.rows)} rows failed ({said}{more}); the others are kept, a rerun tries again"


@contextmanager
def _cells() -> Iterator[Callable[[float, int, str], None]]:
    """A progress bar on stderr, on a terminal, that says which cell is at work."""
    import sys

    if settings.quiet or not sys.stderr.isatty():
        yield lambda done, total, label: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dipc.cli.terminal import console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("cells", total=None)
        yield lambda done, total, label: bar.update(task, completed=done, total=total, description=label)
