"""`dipc report`: a study as a page that opens in any browser, and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.terminal import Debug, Json, Quiet, show_json, working


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
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a study as one HTML page.

    Charts, tables, findings, sources and everything the figures depend on, in one file that loads nothing else and can
    be mailed.
    """
    from dipc.html import write_page
    from dipc.report.figures import document
    from dipc.report.study_file import read_study
    from dipc.report.study_plot import write_plots
    from dipc.report.study_trace import write_trace

    found = read_study(study)
    with working("writing the report"):
        # The page last: it stands for a report that is complete.
        written = [] if plots is None else write_plots(found, plots)
        if perfetto is not None:
            write_trace(found, perfetto)
            written.append(perfetto)
        write_page(found, out)
    if json:
        show_json(document("report", page=str(out), files=[str(path) for path in written]))
        return
    files = f" and {len(written)} more files" if written else ""
    typer.echo(f"wrote {out}{files}; it needs no network")
