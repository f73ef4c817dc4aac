"""`dipc report`: a study as a page that opens in any browser, and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.options import OutputOptions, grouped
from dipc.cli.terminal import show_json, working


@grouped
def command(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The folder that `dipc study` wrote, or the JSON that it printed.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the charts as SVG and PNG, with matplotlib.")
    ] = None,
    perfetto: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the timelines as a trace that ui.perfetto.dev opens."),
    ] = None,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Write a study as one HTML page.

    Charts, tables, findings, sources and everything the figures depend on, in one file that loads nothing else and can
    be mailed.
    """
    from dipc.documents import document
    from dipc.report.html import write_report

    with working("writing the report"):
        *files, page = map(str, write_report(study, out, plots=plots, perfetto=perfetto))
    if output.json:
        show_json(document("report", page=page, files=files))
        return
    beside = f" and {len(files)} other file{'s' * (len(files) > 1)}" if files else ""
    typer.echo(f"wrote {page}{beside}; the page needs no network")
