"""`dipc passes`, `policies`, `operators` and `backends`: what there is of each kind that the registry finds."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from dipc.cli.options import OutputOptions, grouped
from dipc.cli.terminal import show, show_json


@dataclass(frozen=True)
class Kind:
    """A kind on the command line.

    Attributes:
        name: the command.
        help: its line in `dipc --help`.
        registry: where its things are found, `module:name`.
        one: the beginning of the names of the functions of `dipc.report.<name>` that show one thing.
    """

    name: str
    help: str
    registry: str
    one: str

    def things(self) -> Any:
        """Return the registry, imported when it is asked for."""
        module, name = self.registry.split(":")
        return getattr(importlib.import_module(module), name)

    def report(self, function: str) -> Any:
        """Return one of the kind's report functions."""
        return getattr(importlib.import_module(f"dipc.report.{self.name}"), function)


KINDS = (
    Kind("passes", "The passes, a sparsification method being one.", "dipc.pipeline.pass_:PASSES", "pass_info"),
    Kind("policies", "The eviction policies of the weight cache.", "dipc.cache.policy:POLICIES", "policy"),
    Kind("operators", "The operators that passes write and backends run.", "dipc.ir.operators:OPERATORS", "operator"),
    Kind("backends", "The backends: what runs, exports and prices programs.", "dipc.backends:BACKENDS", "backend"),
)


def app_of(kind: Kind) -> typer.Typer:
    """Return the commands `list` and `show` of a kind."""
    app = typer.Typer(no_args_is_help=True, help=kind.help)

    @app.command("list", help=f"List the {kind.name}.")
    @grouped
    def list_all(output: OutputOptions = OutputOptions()) -> None:
        things = kind.things()
        found = [(name, things.get(name)) for name in things.names()]
        if output.json:
            show_json(kind.report(f"{kind.name}_dict")(found))
        else:
            show(kind.report(f"{kind.name}_table")(found))

    @app.command("show", help=f"Show one of the {kind.name}: what it does, and its options.")
    @grouped
    def show_one(name: Annotated[str, typer.Argument(metavar="NAME")], output: OutputOptions = OutputOptions()) -> None:
        thing = kind.things().get(name)
        if output.json:
            show_json(kind.report(f"{kind.one}_dict")(name, thing))
        else:
            show(kind.report(f"{kind.one}_tables")(name, thing))

    return app
