"""Two program texts compared layer by layer; layers that change alike are shown once.

A program's text (dipc.ir.printer) is a header, ports, and sections of nodes under the name of their module. What
belongs to one layer is put together: its modules, and the ports that carry its state.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dipc.documents import JsonObject, document
from dipc.quantities import ranges

OUTSIDE = -1
_LAYER = re.compile(r"layers?[._](\d+)\b|layers?[._](\d+)_|\b(?:h|blocks?)\.(\d+)\b")


@dataclass(frozen=True)
class Change:
    """A module that changed: its unified diff, shown for the first of the layers that change in the same way."""

    module: str
    layers: tuple[int, ...]
    lines: tuple[str, ...]


Sections = dict[tuple[int, str], list[str]]


def changes(before: str, after: str, mlps: Iterable[str], layer: int | None = None) -> list[Change]:
    """List what changed between two program texts, in the order of the layers; what is in no layer comes first.

    Args:
        before: a program's text.
        after: a later text of the same model.
        mlps: modules whose submodules are shown as one.
        layer: only what belongs to this layer.
    """
    whole = tuple(mlps)
    old, new = _sections(before, whole), _sections(after, whole)
    grouped: dict[tuple[str, ...], list[tuple[int, str, tuple[str, ...]]]] = {}
    for at, module in sorted({**old, **new}, key=lambda key: key[0]):
        if layer not in (None, at):
            continue
        body = _unified(old.get((at, module), []), new.get((at, module), []))
        if body:
            alike = (_plain(module), *(_plain(line) for line in body if line[0] in "+-"))
            grouped.setdefault(alike if at != OUTSIDE else (module,), []).append((at, module, body))
    found = []
    for same in grouped.values():
        layers = tuple(at for at, _, _ in same if at != OUTSIDE)
        found.append(Change(same[0][1], layers, same[0][2]))
    return sorted(found, key=lambda change: change.layers[:1])


def diff_dict(found: list[Change], before: str, after: str) -> JsonObject:
    """The changes, with the names of the two texts."""
    return document("diff", before=before, after=after, changes=found)


def diff_parts(found: list[Change], before: str, after: str) -> list[RenderableType]:
    """The changes in colour: what went in red, what came in green."""
    shown: list[RenderableType] = [Text(f"--- {before}", style="red"), Text(f"+++ {after}", style="green")]
    for change in found:
        first, others = change.layers[:1], change.layers[1:]
        where = f"layer {first[0]}, {change.module}" if first else change.module
        shown += [Text(f"\n{where}", style="bold"), _coloured(change.lines)]
        if others:
            word = "layers" if len(others) > 1 else "layer"
            shown.append(Text(f"{word} {ranges(others)}: the same change as layer {first[0]}", style="italic"))
    return shown if found else [*shown, Text("\nno difference")]


def _coloured(lines: Iterable[str]) -> RenderableType:
    """A column of signs beside the text, so that a line that is folded keeps clear of them."""
    grid = Table.grid()
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[0], "")
        grid.add_row(Text(line[0], style=style), Text(line[1:], style=style))
    return grid


def layer_of(name: str) -> int:
    """`model.layers.3.mlp` or `layers_3_input_cached` -> 3; OUTSIDE for what is in no layer."""
    found = _LAYER.search(name)
    return OUTSIDE if found is None else int(next(g for g in found.groups() if g is not None))


def _sections(text: str, mlps: tuple[str, ...]) -> Sections:
    """(layer, module) -> lines."""
    sections: Sections = {}
    module, layer = "", OUTSIDE
    for line in text.splitlines():
        if line.startswith("program "):
            continue
        if not line.startswith("  "):
            module = _whole(line.removesuffix(":"), mlps)
            layer = layer_of(module)
            continue
        body = line[2:]
        key = (layer, module)
        if body.startswith(("input ", "output ")):
            key = (layer_of(body.split()[1].rstrip(":")), "inputs and outputs")
        sections.setdefault(key, []).append(body)
    return sections


def _whole(module: str, mlps: tuple[str, ...]) -> str:
    return next((mlp for mlp in mlps if module == mlp or module.startswith(f"{mlp}.")), module)


def _unified(before: list[str], after: list[str]) -> tuple[str, ...]:
    return tuple(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]


def _plain(line: str) -> str:
    """The line without what tells two layers apart: numbers, and the suffix that makes a node's name unique."""
    return re.sub(r"\d+", "#", re.sub(r"(%[A-Za-z_]\w*?)_\d+\b", r"\1", line))
