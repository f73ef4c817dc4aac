"""The passes of a compilation, and what each did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from dipc.documents import JsonObject, document
from dipc.quantities import NO_BREAK, NONE, number
from dipc.report.table import table

if TYPE_CHECKING:
    from dipc.pipeline.runner import Compiled, PassLog


def compiled_dict(result: Compiled) -> JsonObject:
    """Model, method, pipeline and the log of every pass."""
    return document(
        "compiled",
        model=result.program.info,
        method=result.program.method,
        pipeline=result.pipeline,
        passes=[pass_dict(entry) for entry in result.log],
    )


def pass_dict(entry: PassLog) -> JsonObject:
    """One pass: what ran, for how long, what it rewrote, what it left and why."""
    return {
        "text": entry.text,
        "seconds": entry.seconds,
        "rewritten": list(entry.matches),
        "skipped": [{"where": m.where, "reason": m.reason, "node": m.node} for m in entry.mismatches],
        "operators": entry.operators,
        "deviation": entry.deviation,
    }


def pass_table(title: str, log: Sequence[PassLog]) -> Group:
    """One row per pass; the deviation only where numbers were checked."""
    verified = any(entry.deviation is not None for entry in log)
    columns = ["pass", ">rewritten", ">skipped", "operators", ">seconds", *([">deviation"] if verified else [])]
    rows = []
    for entry in log:
        row = [entry.text, str(len(entry.matches)), str(len(entry.mismatches)), operators_text(entry.operators)]
        row.append(f"{entry.seconds:.2f}")
        rows.append([*row, *([deviation_text(entry.deviation)] if verified else [])])
    return table(title, columns, rows)


def operators_text(changes: dict[str, int]) -> str:
    """`+8 gather_linear, -4 glu`: what came first, then what went, without namespaces and without mere unpacking."""
    kept = [(name, n) for name, n in changes.items() if name != "operator.getitem"]
    ordered = sorted(kept, key=lambda item: (item[1] < 0, -abs(item[1]), item[0]))
    return ", ".join(f"{n:+d}{NO_BREAK}{name.split('.', 1)[-1].split('.')[0]}" for name, n in ordered) or NONE


def deviation_text(value: float | None) -> str:
    """The largest difference of logits, relative to the largest logit."""
    return NONE if value is None else number(value, 2) if value == 0 or value >= 1e-3 else f"{value:.1e}"
