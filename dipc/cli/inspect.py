"""`dipc inspect`: what a program is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import ModelOptions, grouped
from dipc.cli.target import Opened, open_target
from dipc.cli.terminal import Target, show, show_json
from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.ir.program import Program


@grouped
def command(
    target: Target,
    graph: Annotated[bool, typer.Option("--graph", help="Show the program's text.")] = False,
    layer: Annotated[int | None, typer.Option("--layer", metavar="N", min=0, help="Only this layer.")] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what compiling changed, layer by layer (compiled folders only).")
    ] = False,
    common: ModelOptions = ModelOptions(),
) -> None:
    """Show a program: model, passes, selection sites, bytes.

    Or what `dipc calibrate` wrote: FILE.safetensors.
    """
    if graph and diff:
        raise UsageError("inspect: give --graph or --diff, not both")
    if diff:
        _require_artifact(target)
    if target.endswith(".safetensors"):
        if graph or layer is not None:
            raise UsageError(f"inspect: {target} is no program; leave --graph and --layer out")
        return _calibration(target, common.json)
    opened = open_target(target, **common.capture)
    if layer is not None and layer >= opened.program.info.layers:
        raise UsageError(f"inspect: --layer {layer}: the model has layers 0-{opened.program.info.layers - 1}")
    if diff:
        _diff(opened, layer, common.json)
    elif graph:
        _graph(opened.program, layer, common.json)
    else:
        _sites(opened, layer, common.json)
    return None


def _calibration(file: str, json: bool) -> None:
    from dipc.calibration.file import Calibration
    from dipc.report.calibration import calibration_dict, calibration_tables

    found = Calibration.load(file)
    return show_json(calibration_dict(found)) if json else show(calibration_tables(found))


def _require_artifact(target: str) -> None:
    from pathlib import Path

    from dipc.artifact.writer import is_artifact

    if not is_artifact(Path(target)):
        raise UsageError(f"inspect: --diff needs a compiled folder, and {target} is none; compile it first")


def _sites(opened: Opened, layer: int | None, json: bool) -> None:
    from dipc.report.sites import program_dict, program_tables

    if json:
        show_json(program_dict(opened.program, opened.log, layer))
    else:
        show(program_tables(opened.program, opened.log, layer))


def _graph(program: Program, layer: int | None, json: bool) -> None:
    from dipc.documents import document
    from dipc.ir.printer import sections
    from dipc.report.diff import layer_of

    text = program.text()
    if layer is not None:
        chosen = [(module, body) for module, body in sections(program) if layer_of(module) == layer]
        text = "\n".join("\n".join([f"{module}:", *(f"  {line}" for line in body)]) for module, body in chosen) + "\n"
    if json:
        show_json(document("graph", model=program.info, text=text))
    else:
        typer.echo(text, nl=False)


def _diff(opened: Opened, layer: int | None, json: bool) -> None:
    from dipc.report.diff import changes, diff_dict, diff_parts

    names = sorted(opened.dumps or {})
    if len(names) < 2 or opened.dumps is None:
        raise UsageError("inspect: --diff: no pass ran on this program, so there is nothing to compare")
    before, after = names[0], names[-1]
    found = changes(opened.dumps[before], opened.dumps[after], [m.name for m in opened.program.mlps], layer)
    if json:
        show_json(diff_dict(found, before, after))
    else:
        show(diff_parts(found, before, after))
