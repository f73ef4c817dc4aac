"""`dipc passes`: the passes and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from dipc.cli.terminal import Debug, Json, Plugins, show, show_json

app = typer.Typer(no_args_is_help=True, help="The passes, a sparsification method being one.")


@app.command("list")
def list_(plugin: Plugins = None, json: Json = False, debug: Debug = False) -> None:
    """List the passes."""
    from dipc.pipeline.pass_ import PASSES
    from dipc.report.passes import passes_dict, passes_table

    kinds = [(name, PASSES.get(name)) for name in PASSES.names()]
    if json:
        show_json(passes_dict(kinds))
    else:
        show(passes_table(kinds))


@app.command("show")
def show_pass(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    plugin: Plugins = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a pass: what it does, and its options."""
    from dipc.pipeline.pass_ import PASSES
    from dipc.report.passes import pass_info_dict, pass_info_tables

    kind = PASSES.get(name)
    if json:
        show_json(pass_info_dict(name, kind))
    else:
        show(pass_info_tables(name, kind))
