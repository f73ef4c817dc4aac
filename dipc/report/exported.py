"""The files, operators and ports of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.quantities import format_bytes
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.backends import Export
    from dipc.ir.program import Program


def export_dict(made: Export, program: Program) -> JsonObject:
    """Files with their bytes, operators of `ai.dipc` with their number, names of inputs and outputs."""
    return document(
        "export",
        model=program.info,
        method=program.method,
        out=str(made.folder),
        files=dict(made.files),
        operators=dict(made.operators),
        inputs=list(made.inputs),
        outputs=list(made.outputs),
    )


def export_tables(made: Export) -> list[RenderableType]:
    """The same to be read; of the carried inputs and outputs only how many there are."""
    files = table("files", ["file", ">size"], [[name, format_bytes(size)] for name, size in made.files.items()])
    calls = [[name, str(count)] for name, count in made.operators.items()]
    operators = table("operators of ai.dipc", ["operator", ">calls"], calls) if calls else None
    ports = facts("inputs and outputs", [("inputs", _names(made.inputs)), ("outputs", _names(made.outputs))])
    return stack(files, operators, ports)


def _names(names: tuple[str, ...]) -> str:
    """Names, those that begin alike by their number."""
    alone = [n for n in names if "." not in n]
    groups: dict[str, int] = {}
    for name in names:
        if "." in name:
            prefix = name.partition(".")[0]
            groups[prefix] = groups.get(prefix, 0) + 1
    return ", ".join([*alone, *(f"{count} {prefix}.*" for prefix, count in groups.items())])
