"""`dipc policies`: the eviction policies of the weight cache."""

from __future__ import annotations

import typer

from dipc.cli.terminal import Debug, Json, Plugins, show, show_json

app = typer.Typer(no_args_is_help=True, help="The eviction policies of the weight cache.")


# Without a callback, typer makes a group of one command that command.
@app.callback()
def policies() -> None:
    """The eviction policies of the weight cache."""


@app.command("list")
def list_(plugin: Plugins = None, json: Json = False, debug: Debug = False) -> None:
    """List the policies."""
    from dipc.cache.policy import POLICIES
    from dipc.report.policies import policies_dict, policies_table

    kinds = [(name, POLICIES.get(name)) for name in POLICIES.names()]
    if json:
        show_json(policies_dict(kinds))
    else:
        show(policies_table(kinds))
