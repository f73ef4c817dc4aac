"""Groups of options on the command line: those that the library declares, and those that only commands have.

A command is a function whose parameters are its arguments, its own options, and groups of them; `grouped` makes one
option of each field of a group.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, TrustRemoteCode
from dipc.options import Flag, Options, groups_of

R = TypeVar("R")


@dataclass(frozen=True)
class OutputOptions(Options):
    """Options of every command: what it prints, and the plug-ins that it knows."""

    plugin: Plugins = None
    json: Json = False
    quiet: Quiet = False
    debug: Debug = False


@dataclass(frozen=True)
class CaptureOptions(Options):
    """How a model is opened, where the target is one."""

    dtype: Dtype = "auto"
    trust_remote_code: TrustRemoteCode = False


@dataclass(frozen=True)
class ModelOptions(OutputOptions, CaptureOptions):
    """Options of every command that opens a model."""

    @property
    def capture(self) -> dict[str, Any]:
        """How the model is opened: keywords of `dipc.capture`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(CaptureOptions)}


def grouped(command: Callable[..., R]) -> Callable[..., R]:
    """Offer the fields of a command's groups as options; the command gets the groups."""
    groups = groups_of(command)
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _offered(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**given: Any) -> R:
        for name, default in groups.items():
            given[name] = _gathered(default, given)
        return command(**given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _offered(default: Any) -> list[inspect.Parameter]:
    """Return a parameter for each field of a group that has a `Flag`, or an option of typer's."""
    hints, found = get_type_hints(type(default), include_extras=True), []
    for field in dataclasses.fields(default):
        kind, *extras = get_args(hints[field.name]) if hasattr(hints[field.name], "__metadata__") else (None,)
        extra = next((e for e in extras if isinstance(e, (Flag, OptionInfo))), None)
        if extra is None:
            continue
        option = _option(field.name, kind, extra) if isinstance(extra, Flag) else Annotated[kind, extra]
        value = False if isinstance(extra, Flag) and extra.bare is not None else getattr(default, field.name)
        value = _text(value) if isinstance(value, tuple) else value
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=option))
    return found


def _text(values: tuple[object, ...]) -> str:
    """Return a list as it is written on the command line."""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _option(field: str, kind: Any, flag: Flag) -> Any:
    """Return the annotation that typer takes for a field; a choice stays text, which the group itself checks.

    The flag is always named, but where it has an opposite: some versions of typer take the metavar for its name.
    """
    name = flag.name or f"--{field.replace('_', '-')}"
    names = [] if flag.name is None and bool in (kind, *get_args(kind)) and flag.bare is None else [name]
    if flag.bare is not None:
        return Annotated[bool, typer.Option(*names, help=flag.help)]
    given = [k for k in get_args(kind) if k is not NoneType] if get_origin(kind) is UnionType else [kind]
    taken = str if flag.parse is not None or get_origin(given[0]) is Literal else given[0]
    made = typer.Option(*names, metavar=flag.metavar, help=flag.help, min=flag.min, max=flag.max)
    return Annotated[taken if given == [kind] and flag.parse is None else taken | None, made]


def _gathered(default: Any, given: dict[str, Any]) -> Any:
    """Take the fields of a group out of what was given, and return the group."""
    hints, values = get_type_hints(type(default), include_extras=True), {}
    for name in (parameter.name for parameter in _offered(default)):
        value = given.pop(name)
        flag = next((extra for extra in get_args(hints[name]) if isinstance(extra, Flag)), None)
        if flag is not None and flag.bare is not None:
            value = flag.bare if value else getattr(default, name)
        elif flag is not None and flag.parse is not None and isinstance(value, str):
            value = flag.parse(value)
        values[name] = value
    return dataclasses.replace(default, **values)


TextFile = Annotated[
    Path | None, typer.Option("--text", metavar="FILE", help="UTF-8 text; by default the sample that comes with dipc.")
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="Of torch: auto (a GPU where there is one), cpu, cuda or cuda:N."),
]
