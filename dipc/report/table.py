"""Tables without lines: they look the same in a terminal, in a pipe and in a mail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, header: bool = True) -> Group:
    """A table under its title; a column whose name begins with ">" holds figures: set right, and never broken."""
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=header,
        header_style="dim",
    )
    for column in columns:
        figures = column.startswith(">")
        made.add_column(
            Text(column.removeprefix(">")),
            justify="right" if figures else "left",
            no_wrap=figures,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    # rich would fold a title to the width of its table.
    return Group(Text(title, style="bold"), made) if title else Group(made)


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Group:
    """Names and values, one pair a line."""
    return table(title, ("", ""), rows, header=False)


def stack(*parts: RenderableType | None) -> list[RenderableType]:
    """Stack those parts that are there, an empty line between them."""
    shown: list[RenderableType] = []
    for part in parts:
        if part is not None:
            shown += [Text(""), part] if shown else [part]
    return shown


def by_reason(given: Iterable[tuple[str, str | None]]) -> list[tuple[str, str]]:
    """Group names by the reason why each lacks something; those without one are left out."""
    found: dict[str, list[str]] = {}
    for name, reason in given:
        if reason:
            found.setdefault(reason, []).append(name)
    return [("; ".join(names), reason) for reason, names in found.items()]
