"""Groups of options: as keywords of the library's functions, and as flags of the command line."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

import dipc
from dipc.cli.options import grouped
from dipc.errors import UsageError
from dipc.options import Flag, Options, flat


@dataclass(frozen=True)
class Paint(Options):
    """What a wall is painted with."""

    colour: Annotated[Literal["white", "red"], Flag("Of the wall.", metavar="NAME")] = "white"
    coats: Annotated[int | None, Flag("How many.", metavar="N", min=1)] = None
    litres: Annotated[
        float, Flag("Such as 2 l.", name="--amount", parse=lambda text: float(text.removesuffix(" l")))
    ] = 1.0
    glossy: Annotated[bool, Flag("Leave it matt.", name="--matt", bare=False)] = True
    primer: str = "none"

    def __post_init__(self) -> None:
        if self.colour == "red" and not self.glossy:
            raise UsageError("red is only to be had glossy")


def paint(wall: str, *, with_: Paint = Paint(coats=2), hurry: bool = False) -> tuple[str, Paint, bool]:
    return wall, with_, hurry


def test_fields_are_keywords_and_a_group_goes_as_it_is() -> None:
    call = flat(paint)
    assert call("north") == ("north", Paint(coats=2), False)
    assert call("north", colour="red", hurry=True) == ("north", Paint("red", 2), True)
    assert call("north", with_=Paint(coats=5)) == ("north", Paint(coats=5), False)
    assert call("north", with_=None) == call("north")
    with pytest.raises(TypeError, match="takes either with_ or its colour"):
        call("north", with_=Paint(), colour="red")
    with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
        call("north", color="red")


def test_help_shows_the_fields_with_their_defaults() -> None:
    parameters = inspect.signature(flat(paint)).parameters
    assert list(parameters) == ["wall", "with_", "colour", "coats", "litres", "glossy", "primer", "hurry"]
    assert parameters["coats"].default == 2 and parameters["coats"].annotation == int | None
    assert "seq_len" in inspect.signature(dipc.evaluate).parameters


def test_one_name_has_one_meaning() -> None:
    def twice(colour: str, paint: Paint = Paint()) -> None: ...

    with pytest.raises(TypeError, match="the option colour has two meanings"):
        flat(twice)


def on_the_command_line(*arguments: str) -> tuple[int, str]:
    app = typer.Typer(add_completion=False)

    @app.command()
    @grouped
    def command(wall: str, with_: Paint = Paint(coats=2)) -> None:
        typer.echo(f"{wall} {with_}")

    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output if result.exception is None else str(result.exception)


def test_fields_are_flags() -> None:
    assert on_the_command_line("north") == (0, f"north {Paint(coats=2)}\n")
    given = ("north", "--coats", "3", "--amount", "2.5 l", "--matt")
    assert on_the_command_line(*given) == (0, f"north {Paint('white', 3, 2.5, False)}\n")
    assert on_the_command_line("north", "--colour", "red", "--matt") == (1, "red is only to be had glossy")
    assert on_the_command_line("north", "--coats", "0")[0] == 2
    assert on_the_command_line("north", "--primer", "x")[0] == 2  # it has no flag
