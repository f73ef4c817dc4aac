"""`dipc compare`: every method on one model, in one fair table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.bench import densities
from dipc.cli.options import SeqLen, TextFile
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, TrustRemoteCode, settings, show, show_json
from dipc.errors import DipcError, MissingDependency
from dipc.options import MOST_SEED

if TYPE_CHECKING:
    from dipc.studies.compare import Comparison


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
    calibration_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to make the calibration from, once; not the test's.")
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Use only so many tokens of that text.")
    ] = 131_072,
    lora: Annotated[
        bool, typer.Option("--lora", help="Also train adapters, for each density its own: dip+lora and cats+lora.")
    ] = False,
    train_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to train them on; by default the calibration's.")
    ] = None,
    rank: Annotated[int, typer.Option(metavar="N", min=1, help="Of the adapters.")] = 32,
    iterations: Annotated[int, typer.Option(metavar="N", min=1, help="Of the training of each.")] = 1000,
    tasks: Annotated[str, typer.Option(metavar="LIST", help="Also accuracy: tasks such as mmlu,hellaswag.")] = "",
    task_data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The tasks' data as local files, instead of the hub's.")
    ] = None,
    fewshot: Annotated[int | None, typer.Option(metavar="N", min=0, help="Examples before each question.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Questions of each task.")] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of calibration, training and tasks.")
    ] = 0,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods at equal density, in one table.

    Perplexity, distance to the dense model, measured density and bytes read; table.md, table.json and a plot are in the
    folder too. A method that cannot do what is asked has its reason in the table; if one fails, the others are shown
    and the exit code is 1.
    """
    from dipc.registry import load_installed_plugins
    from dipc.text import read_text

    load_installed_plugins()
    texts = [None if file is None else read_text(file) for file in (text, calibration_text, train_text)]
    chosen = [*listed(methods or ("" if method else "all")), *(method or ())]
    from dipc import api
    from dipc.report.comparison import comparison_dict, comparison_tables

    with cells() as progress:
        found = api.compare(
            model,
            chosen,
            densities(density),
            out=out,
            text=texts[0],
            seq_len=seq_len,
            max_tokens=max_tokens,
            calibration=calibration,
            calibration_text=texts[1],
            calibration_tokens=calibration_tokens,
            lora=lora,
            train_text=texts[2],
            rank=rank,
            iterations=iterations,
            tasks=listed(tasks),
            task_data=task_data,
            fewshot=fewshot,
            limit=limit,
            seed=seed,
            progress=progress,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    if json:
        show_json(comparison_dict(found))
    else:
        show([*comparison_tables(found), "", _written(out)])
    if found.failures:
        raise DipcError(_failures(found))


def listed(text: str) -> list[str]:
    """The items of a list."""
    return [item.strip() for item in text.split(",") if item.strip()]


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
