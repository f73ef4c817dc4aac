"""`dipc hw`: the devices and their files."""

from __future__ import annotations

from typing import Annotated

import typer

from dipc.cli.options import OutputOptions, grouped
from dipc.cli.terminal import show, show_json
from dipc.errors import BadFile

app = typer.Typer(no_args_is_help=True, help="The devices, and checking a device file.")


@app.command("list")
@grouped
def list_(output: OutputOptions = OutputOptions()) -> None:
    """List the devices."""
    from dipc.hardware.find import device_names, device_path, load_device
    from dipc.registry import load_installed_plugins
    from dipc.report.devices import devices_dict, devices_table

    load_installed_plugins()
    devices = [(load_device(name), str(device_path(name))) for name in device_names()]
    if output.json:
        show_json(devices_dict(devices))
    else:
        show(devices_table(devices))


@app.command("show")
@grouped
def show_device(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A device's name or file.")],
    output: OutputOptions = OutputOptions(),
) -> None:
    """Show a device with the kind and the source of each figure."""
    from dipc.hardware.find import file_of, load_device
    from dipc.registry import load_installed_plugins
    from dipc.report.devices import device_dict, device_tables

    load_installed_plugins()
    device = load_device(name)
    file = file_of(name)
    if output.json:
        show_json(device_dict(device, file))
    else:
        show(device_tables(device, file))


@app.command("validate")
@grouped
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A device file, NAME.yaml.")],
    output: OutputOptions = OutputOptions(),
) -> None:
    """Check a device file; every problem is named with its line."""
    from dipc.documents import document
    from dipc.hardware.device_file import read_device

    _, problems, doubts = read_device(file)
    if output.json:
        show_json(document("validation", file=file, valid=not problems, problems=problems, warnings=doubts))
    else:
        for line in [*problems, *(f"warning: {doubt}" for doubt in doubts)]:
            typer.echo(line)
    if problems:
        raise BadFile(f"{file}: {_count(problems, 'problem')}, listed on stdout")
    if not output.json:
        typer.echo(f"{file}: right" + (f", with {_count(doubts, 'warning')}" if doubts else ""))


def _count(lines: list[str], what: str) -> str:
    return f"{len(lines)} {what}{'s' if len(lines) > 1 else ''}"
