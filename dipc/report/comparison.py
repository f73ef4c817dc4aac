"""The table of a comparison: dense on top of each block, what each row costs beside what it gives, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dipc.quantities import format_bytes
from dipc.report.figures import NO_BREAK, NONE, document, number, percent, share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.comparison import Comparison, Row

BEST = "*"
_COLUMNS = ("method", ">density", ">perplexity", ">KL", ">MLP reads", ">all reads", ">overhead")
_NOTES = (
    f"{BEST} the least perplexity of a block, of the rows at its density that are neither an oracle nor trained",
    "density: weights of the MLPs read per token, of all, as measured; KL: nats per token to the dense model",
    "reads: bytes of weights per token, of the MLPs by the masks and of everything, without a KV cache; overhead: the "
    "part of them that holds no parameter of the model (predictors, norms, scales, mask bits)",
)


def comparison_dict(found: Comparison) -> dict[str, Any]:
    """All figures, and all that they depend on."""
    return document(
        "comparison",
        model=found.model,
        protocol=found.protocol,
        dense=_row_dict(found, found.dense),
        rows=[_row_dict(found, row) for row in found.rows],
        verdict=found.verdict,
    )


def _row_dict(found: Comparison, row: Row) -> dict[str, Any]:
    return {
        "method": row.name,
        "label": row.label,
        "kind": row.kind,
        "density": row.density,
        "pipeline": row.pipeline,
        "best": row is found.best(row.density),
        "figures": None if row.figures is None else {**vars(row.figures), "bytes_read": row.figures.bytes_read},
        "tasks": row.tasks,
        "reason": row.reason,
        "failed": row.failed,
    }


def comparison_tables(found: Comparison) -> list[RenderableType]:
    """A table per density, the rows without figures, the verdict, and what was measured on."""
    from rich.text import Text

    from dipc.report.table import facts, stack, table

    parts: list[RenderableType | None] = []
    for density in found.densities:
        rows = [(row, _cells(found, row)) for row in (found.dense, *_measured(found, density))]
        parts.append(table(_title(found, density), _COLUMNS, [_styled(found, row, cells) for row, cells in rows]))
        parts.append(_accuracies(found, density))
        absent = [(row.label, row.reason or "") for row in found.block(density) if row.reason]
        parts.append(table("incomplete", ("method", "reason"), absent) if absent else None)
    if found.verdict:
        parts.append(Text("\n".join(f"- {sentence}" for sentence in found.verdict)))
    parts.append(facts("measured on", protocol(found)))
    return stack(*parts, Text("\n".join(_NOTES), style="dim"))


def comparison_markdown(found: Comparison) -> str:
    """The same as Markdown; the best row of a block is bold."""
    lines = [f"# Methods on {found.model['name']}", "", *(f"- {name}: {value}" for name, value in protocol(found)), ""]
    columns = ["method", *(c.removeprefix(">") for c in _COLUMNS[1:]), *found.tasks]
    for density in found.densities:
        lines += [f"## {_title(found, density)}", "", _line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
        for row in (found.dense, *_measured(found, density)):
            cells = [cell.strip() for cell in (*_cells(found, row), *(_accuracy(row, task) for task in found.tasks))]
            if row is found.best(density):
                cells[:3] = [f"**{cell.removesuffix(BEST)}**" for cell in cells[:3]]
            lines.append(_line([cell.removesuffix(BEST) for cell in cells]))
        absent = [row for row in found.block(density) if row.reason]
        lines += ["", *(f"- {row.label}: {row.reason}" for row in absent), *([""] if absent else [])]
    lines += ["## What the figures show", "", *(f"- {sentence}" for sentence in found.verdict), ""]
    notes = [note.replace(BEST, "bold:", 1) if note.startswith(BEST) else note for note in _NOTES]
    return "\n".join([*lines, *(f"{note}.  " for note in notes)]).rstrip() + "\n"


def protocol(found: Comparison) -> list[tuple[str, str]]:
    """What all rows share, as names and values."""
    model = f"{found.model['name']} ({found.model['digest']}), {found.model['bits per weight']:g} bits per weight"
    given = [(name, value) for name, value in found.protocol.items() if not name.startswith("model")]
    return [("model", model), *((name, NONE if value is None else number_or_text(value)) for name, value in given)]


def number_or_text(value: Any) -> str:
    """A figure with its thousands set apart, or a text as it is."""
    return number(value) if isinstance(value, (int, float)) else str(value)


def _title(found: Comparison, density: float | None) -> str:
    return "pipelines without DENSITY" if density is None else f"density {density:g}"


def _measured(found: Comparison, density: float | None) -> list[Row]:
    return [row for row in found.block(density) if row.figures is not None]


def _cells(found: Comparison, row: Row) -> list[str]:
    figures = row.figures
    assert figures is not None
    mark = BEST if row is found.best(row.density) else NO_BREAK
    return [
        row.label,
        share(figures.density),
        f"{number(figures.perplexity)}{mark}",
        number(figures.kl_to_dense, 3) if row.kind != "dense" else NONE,
        format_bytes(figures.mlp_bytes),
        format_bytes(figures.bytes_read),
        format_bytes(figures.overhead_bytes) if figures.overhead_bytes else NONE,
    ]


def _styled(found: Comparison, row: Row, cells: Sequence[str]) -> list[Any]:
    from rich.text import Text

    style = "bold" if row is found.best(row.density) else ""
    return [Text(cell, style=style) for cell in cells]


def _accuracies(found: Comparison, density: float | None) -> RenderableType | None:
    from dipc.report.table import table

    rows = [row for row in (found.dense, *found.block(density)) if row.tasks]
    if not rows:
        return None
    columns = ("method", *(f">{task}" for task in found.tasks))
    return table("accuracy", columns, [(row.label, *(_accuracy(row, task) for task in found.tasks)) for row in rows])


def _accuracy(row: Row, task: str) -> str:
    found = row.tasks.get(task)
    if found is None:
        return NONE
    return percent(found.value) if found.stderr is None else f"{100 * found.value:.1f} ± {percent(found.stderr)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
