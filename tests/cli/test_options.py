"""Groups of options: the flags that they become, whatever stands for their values."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from dipc.cli.options import grouped
from dipc.errors import UsageError
from dipc.options import Flag, Options, listed, numbers


@dataclass(frozen=True)
class Group(Options):
    model: Annotated[str, Flag("A model.", "MODEL")] = "demo"
    seq_len: Annotated[int | None, Flag("Tokens.", "N")] = None
    shares: Annotated[tuple[float, ...], Flag("Shares.", "LIST", "--share")] = (1.0, 0.5)
    fast: Annotated[bool | None, Flag("Or not.")] = None
    plain: Annotated[bool, Flag("Plain.", bare=True)] = False


@grouped
def command(group: Group = Group()) -> Group:
    return group


def test_a_flag_is_named_after_its_field_and_not_its_metavar() -> None:
    app = typer.Typer()
    app.command()(command)
    options = {p.name: [*p.opts, *p.secondary_opts] for p in get_command(app).params if p.name != "help"}
    assert options["model"] == ["--model"] and options["seq_len"] == ["--seq-len"] and options["shares"] == ["--share"]
    assert options["plain"] == ["--plain"] and options["fast"] == ["--fast", "--no-fast"]
    assert inspect.signature(command).parameters["shares"].default == "1,0.5"


def test_lists_on_the_command_line() -> None:
    assert listed("passes", "a, b,,a") == ("a", "b") and numbers("density", "1,0.5,1") == (1.0, 0.5)
    with pytest.raises(UsageError, match="--passes ' , ' lists nothing"):
        listed("passes", " , ")
    with pytest.raises(UsageError, match="--density 'half' is no list of numbers"):
        numbers("density", "half")
