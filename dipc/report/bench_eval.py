"""The contest of perplexities: how long that of sparsified programs takes, beside dense."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from dipc.documents import document
from dipc.quantities import NONE, number
from dipc.report.bench import (
    backend_setting,
    failure_dicts,
    failures_table,
    machine_table,
    rules_table,
    times_dict,
    times_text,
)
from dipc.report.table import stack, table
from dipc.studies.bench.backend import runtime_of
from dipc.studies.bench.eval import EvalBenchResult, EvalRow


def eval_dict(result: EvalBenchResult) -> dict[str, Any]:
    """Return all figures, every call's time, and what they were measured on."""
    bench = result.bench
    return document(
        "bench-eval",
        machine=result.machine,
        settings={
            "model": bench.model,
            "passes": bench.passes,
            "seq_len": bench.seq_len,
            "max_tokens": bench.max_tokens,
            "seed": bench.seed,
            **backend_setting(bench),
            **({} if bench.device is None else {"device": bench.device}),
        },
        rules=result.rules,
        rows=[_row_dict(row) for row in result.rows],
        failures=failure_dicts(result.failures),
    )


def eval_tables(result: EvalBenchResult) -> list[RenderableType]:
    """Show the programs and who is missing; then the machine and how it was measured."""
    title = f"perplexity of {result.bench.model} in {runtime_of(result.bench.backend)}"
    if result.bench.device is not None:
        title += f" on {result.bench.device}"
    if result.rows:
        title += f": {result.rows[0].tokens} tokens in windows of {result.rows[0].seq_len}"
    columns: tuple[str, ...] = ("", ">ms", ">10-90 %", ">tokens/s", ">time / dense", ">perplexity")
    rows = [_row(row) for row in result.rows]
    if any(row.cpu_perplexity is not None for row in result.rows):
        columns = (*columns, ">on the CPU")
        beside = (NONE if row.cpu_perplexity is None else number(row.cpu_perplexity) for row in result.rows)
        rows = [(*row, perplexity) for row, perplexity in zip(rows, beside, strict=True)]
    made = table(title, columns, rows)
    how = [("a call", "the perplexity of all tokens by one session; the dense model is not run beside it")]
    return stack(made, failures_table(result.failures), machine_table(result.machine), rules_table(result.rules, how))


def _row_dict(row: EvalRow) -> dict[str, Any]:
    return {
        "passes": row.passes,
        **times_dict(row.timing),
        "tokens_per_second": row.tokens_per_second,
        "tokens": row.tokens,
        "seq_len": row.seq_len,
        "time_by_dense": row.time_by_dense,
        "perplexity": row.perplexity,
        **({} if row.cpu_perplexity is None else {"cpu_perplexity": row.cpu_perplexity}),
    }


def _row(row: EvalRow) -> tuple[str, ...]:
    ratio = NONE if row.time_by_dense is None else number(row.time_by_dense.value, 3)
    return row.passes, *times_text(row.timing), number(row.tokens_per_second, 3), ratio, number(row.perplexity)
