"""`dipc export`: a program for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.options import ModelOptions, grouped
from dipc.cli.target import open_target
from dipc.cli.terminal import Target, show, show_json, working


@grouped
def command(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write.")],
    to: Annotated[
        str, typer.Option("--to", metavar="BACKEND", help="What to write it for (`dipc backends list`).")
    ] = "onnx",
    no_pack: Annotated[
        bool, typer.Option("--no-pack", help="Keep the matrices as they are, not unit by unit for the kernels.")
    ] = False,
    common: ModelOptions = ModelOptions(),
) -> None:
    """Write a program for another runtime, as an ONNX model.

    It runs in every ONNX Runtime, and faster where dipc's library is registered.
    """
    from dipc.backends import get_backend
    from dipc.files import check_output

    check_output(out)
    get_backend(to, "export")
    opened = open_target(target, **common.capture)
    with working(f"writing {out}"):
        from dipc import api
        from dipc.pipeline.runner import Compiled

        # With its log, so that the model says which passes made it.
        result = Compiled(opened.program, opened.program.reference, ",".join(e.text for e in opened.log), opened.log)
        made = api.export(result, to, out, pack=not no_pack)
    from dipc.report.exported import export_dict, export_tables

    if common.json:
        show_json(export_dict(made, opened.program))
    else:
        show(export_tables(made))
        typer.echo("")
        typer.echo(f"wrote {out}")
