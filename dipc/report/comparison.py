"""The table of a comparison: dense on top of each block, what each row costs beside what it gives, and the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dipc.documents import JsonObject, document
from dipc.quantities import NO_BREAK, NONE, format_bytes, number, percent, share
from dipc.report.comparison_findings import comparison_sentences
from dipc.report.table import by_reason, facts, stack, table

if TYPE_CHECKING:
    from dipc.studies.compare import Comparison, Row

BEST = "*"
_COLUMNS = ("method", ">density", ">perplexity", ">KL", ">MLP reads", ">all reads", ">overhead")
_NOTES = (
    f"{BEST} the least perplexity of a block, of the rows at its density that read less than the dense model and are "
    "neither an oracle nor trained",
    "density: weights of the MLPs read per token, of all, as measured; KL: nats per token to the dense model",
    "reads: bytes of weights per token, of the MLPs by the masks and of everything, without a KV cache; overhead: the "
    "part of them that holds no parameter of the model (predictors, norms, scales, mask bits)",
)


def comparison_dict(found: Comparison) -> JsonObject:
    """All figures, and all that they depend on."""
    return document(
        "comparison",
        model=found.model,
        protocol=found.protocol,
        dense=_row_dict(found, found.dense),
        rows=[_row_dict(found, row) for row in found.rows],
        verdict=comparison_sentences(found),
    )


def _row_dict(found: Comparison, row: Row) -> JsonObject:
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
    """A table per density, the rows without figures, the findings, and what was measured on."""
    parts: list[RenderableType | None] = []
    for density in found.densities:
        rows = [_styled(row, row is found.best(density)) for row in (found.dense, *_measured(found, density))]
        parts.append(table(_title(density), _COLUMNS, rows))
        parts.append(_accuracies(found, density))
        reasons = by_reason((row.label, row.reason) for row in found.block(density))
        parts.append(table("incomplete", ("method", "reason"), reasons) if reasons else None)
    sentences = [("-", sentence) for sentence in comparison_sentences(found)]
    if sentences:
        parts.append(table("what the figures show", ("", ""), sentences, header=False))
    parts.append(facts("measured on", protocol(found)))
    return stack(*parts, Text("\n".join(_NOTES), style="dim"))


def comparison_markdown(found: Comparison) -> str:
    """The same as Markdown; the best row of a block is bold."""
    lines = [f"# Methods on {found.model['name']}", "", *(f"- {name}: {value}" for name, value in protocol(found)), ""]
    columns = ["method", *(c.removeprefix(">") for c in _COLUMNS[1:]), *found.tasks]
    for density in found.densities:
        lines += [f"## {_title(density)}", "", _line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
        for row in (found.dense, *_measured(found, density)):
            cells = [*_cells(row), *(_accuracy(row, task) for task in found.tasks)]
            if row is found.best(density):
                cells[:3] = [f"**{cell}**" for cell in cells[:3]]
            lines.append(_line(cells))
        missing = by_reason((row.label, row.reason) for row in found.block(density))
        reasons = [f"- {labels}: {reason}" for labels, reason in missing]
        lines += ["", *reasons, *([""] if reasons else [])]
    lines += ["## What the figures show", "", *(f"- {sentence}" for sentence in comparison_sentences(found)), ""]
    notes = [note.replace(BEST, "bold:", 1) if note.startswith(BEST) else note for note in _NOTES]
    return "\n".join([*lines, *(f"{note}.  " for note in notes)]).rstrip() + "\n"


def protocol(found: Comparison) -> list[tuple[str, str]]:
    """Return what all rows share, as names and values."""
    model = f"{found.model['name']} ({found.model['digest']}), {found.model['bits per weight']:g} bits per weight"
    given = [(name, value) for name, value in found.protocol.items() if not name.startswith("model")]
    return [("model", model), *((name, NONE if value is None else number_or_text(value)) for name, value in given)]


def number_or_text(value: object) -> str:
    """A figure with its thousands set apart, or a text as it is."""
    return number(value) if isinstance(value, (int, float)) else str(value)


def _title(density: float | None) -> str:
    return "the same at every density" if density is None else f"density {density:g}"


def _measured(found: Comparison, density: float | None) -> list[Row]:
    return [row for row in found.block(density) if row.figures is not None]


def _cells(row: Row) -> list[str]:
    figures = row.figures
    assert figures is not None
    return [
        row.label,
        share(figures.density),
        number(figures.perplexity),
        number(figures.kl_to_dense, 3) if row.kind != "dense" else NONE,
        format_bytes(figures.mlp_bytes),
        format_bytes(figures.bytes_read),
        format_bytes(figures.overhead_bytes) if figures.overhead_bytes else NONE,
    ]


def _styled(row: Row, is_best: bool) -> list[Text]:
    """The cells; a best row is bold, and has a mark that is seen without colours."""
    cells = _cells(row)
    cells[2] += BEST if is_best else NO_BREAK
    return [Text(cell, style="bold" if is_best else "") for cell in cells]


def _accuracies(found: Comparison, density: float | None) -> RenderableType | None:
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
