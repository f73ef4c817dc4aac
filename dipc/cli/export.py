"""`dipc export`: a program for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dipc.cli.target import open_target
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, Target, TrustRemoteCode, show, show_json, working

Format = Annotated[Literal["onnx"], typer.Option("--to", help="What to write.")]


def command(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write.")],
    to: Format = "onnx",
    no_pack: Annotated[
        bool, typer.Option("--no-pack", help="Keep the matrices as they are, not unit by unit for the kernels.")
    ] = False,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a program as an ONNX model.

    It runs in every ONNX Runtime, and faster where dipc's library is registered.
    """
    from dipc.backends.onnx.export import require_libraries
    from dipc.files import check_output

    check_output(out)
    require_libraries()
    opened = open_target(target, dtype=dtype, trust_remote_code=trust_remote_code)
    with working(f"writing {out}"):
        from dipc import api
        from dipc.pipeline.runner import Compiled

        # With its log, so that the model says which passes made it.
        result = Compiled(opened.program, opened.program.reference, ",".join(e.text for e in opened.log), opened.log)
        made = api.export(result, to, out, pack=not no_pack)
    from dipc.report.exported import export_dict, export_tables

    if json:
        show_json(export_dict(made, opened.program))
    else:
        show(export_tables(made, opened.program))
        typer.echo("")
        typer.echo(f"wrote {out}")
