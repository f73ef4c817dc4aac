"""How long the perplexity of sparsified programs takes, beside dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dipc.documents import document
from dipc.quantities import NONE, number
from dipc.report.bench import failures_table, machine_table, rules_table, times_dict, times_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.studies.bench.evaluation import EvalResult, Row


def eval_dict(result: EvalResult) -> dict[str, Any]:
    """All figures, every call's time, and what they were measured on."""
    settings = result.settings
    return document(
        "bench-eval",
        machine=result.machine,
        settings={
            "model": settings.model,
            "passes": settings.passes,
            "seq_len": settings.seq_len,
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
        },
        rules=result.rules,
        rows=[_row_dict(row) for row in result.rows],
        failures=result.failures,
    )


def eval_tables(result: EvalResult) -> list[RenderableType]:
    """The programs and who is missing; then the machine and how it was measured."""
    from dipc.report.table import stack, table

    title = f"perplexity of {result.settings.model} in torch"
    if result.rows:
        title += f": {result.rows[0].tokens} tokens in windows of {result.rows[0].seq_len}"
    columns = ("", ">ms", ">10-90 %", ">tokens/s", ">time / dense", ">perplexity")
    made = table(title, columns, [_row(row) for row in result.rows])
    how = [("a call", "the perplexity of all tokens by one session; the dense model is not run beside it")]
    return stack(made, failures_table(result.failures), machine_table(result.machine), rules_table(result.rules, how))


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        "passes": row.passes,
        **times_dict(row.measured),
        "tokens_per_second": row.tokens_per_second,
        "tokens": row.tokens,
        "seq_len": row.seq_len,
        "time_by_dense": row.ratio,
        "perplexity": row.perplexity,
    }


def _row(row: Row) -> tuple[str, ...]:
    ratio = NONE if row.ratio is None else number(row.ratio.value, 3)
    return row.passes, *times_text(row.measured), number(row.tokens_per_second, 3), ratio, number(row.perplexity)
