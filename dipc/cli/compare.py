"""`dipc compare`: every method on one model, in one fair table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import CaptureOptions, OutputOptions, grouped
from dipc.cli.terminal import settings, show, show_json
from dipc.errors import DipcError, MissingDependency
from dipc.options import Options, numbers
from dipc.studies.options import AccuracyOptions, MeasuredText, Preparation, items

if TYPE_CHECKING:
    from dipc.studies.compare import Comparison


@dataclass(frozen=True)
class RowLists(Options):
    """The rows of a comparison, at which densities."""

    methods: Annotated[
        str | None, typer.Option(metavar="LIST", help="all, paper, or names such as dip,cats; by default all.")
    ] = None
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A row of your own, at each density unless it names one: 'int4,dip'; may be repeated.",
        ),
    ] = None
    density: Annotated[str, typer.Option(metavar="LIST", help="Kept shares of the MLPs' weights.")] = "0.6,0.5,0.4"

    @property
    def chosen(self) -> list[str]:
        """All methods: those that are named, then those that are written out."""
        return [*items(self.methods or ("" if self.method else "all")), *(self.method or ())]


@grouped
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The dense model: demo, smollm2, a folder, a GGUF file, a Hugging Face id."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Keeps all results; a rerun goes on.")],
    rows: RowLists = RowLists(),
    measured: MeasuredText = MeasuredText(),
    preparation: Preparation = Preparation(),
    accuracy: AccuracyOptions = AccuracyOptions(),
    capture: CaptureOptions = CaptureOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Compare methods at equal density, in one table.

    Perplexity, distance to the dense model, measured density and bytes read; table.md, table.json and a plot are in the
    folder too. A method that cannot do what is asked has its reason in the table; if one fails, the others are shown
    and the exit code is 1.
    """
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    densities = numbers("density", rows.density)
    from dipc import api
    from dipc.report.comparison import comparison_dict, comparison_tables

    with cells() as progress:
        found = api.compare(
            model,
            rows.chosen,
            densities,
            out=out,
            measured=measured,
            preparation=preparation,
            accuracy=accuracy,
            progress=progress,
            **vars(capture),
        )
    if output.json:
        show_json(comparison_dict(found))
    else:
        show([*comparison_tables(found), "", _written(out)])
    if found.failures:
        raise DipcError(_failures(found))


def _written(out: Path) -> str:
    from dipc.report.plot import require_matplotlib

    try:
        require_matplotlib()
    except MissingDependency as error:
        return f"wrote table.md and table.json to {out}; {error}"
    return f"wrote table.md, table.json, perplexity.svg and perplexity.png to {out}"


def _failures(found: Comparison) -> str:
    said = "; ".join(
        f"{row.label} {'' if row.density is None else f'{row.density:g}'}: {row.reason}" for row in found.failures[:3]
    )
    count = len(found.failures)
    more = f"; and {count - 3} more" if count > 3 else ""
    return f"compare: {count} of {len(found.rows)} rows failed ({said}{more}); the others are kept, a rerun tries again"


@contextmanager
def cells() -> Iterator[Callable[[float, int, str], None]]:
    """A progress bar on stderr, on a terminal, that says which cell is at work."""
    import sys

    if settings.quiet or not sys.stderr.isatty():
        yield lambda done, total, label: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dipc.cli.terminal import console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("opening the model", total=None)
        yield lambda done, total, label: bar.update(task, completed=done, total=total, description=label)
