"""The contest of decoding: tokens per second of whole models, beside dense and beside what the bytes allow."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from dipc.documents import document
from dipc.quantities import NONE, format_bandwidth, format_bytes, number, percent
from dipc.report.bench import (
    backend_setting,
    failure_dicts,
    failures_table,
    is_usual,
    machine_table,
    ratio_text,
    rules_table,
    times_dict,
)
from dipc.report.table import stack, table
from dipc.studies.bench.backend import runtime_of
from dipc.studies.bench.decode import DecodeBenchResult, DecodeContest, DecodeRow


def decode_dict(result: DecodeBenchResult) -> dict[str, Any]:
    """Return all figures, every call's time, and what they were measured on."""
    bench = result.bench
    return document(
        "bench-decode",
        machine=result.machine,
        model={"config": str(bench.config), "parameters": result.parameters, "layers": result.layers},
        settings={
            "passes": bench.passes,
            "formats": bench.formats,
            "prompt": bench.prompt,
            "seed": bench.seed,
            **backend_setting(bench),
        },
        rules=result.rules,
        contests=[_contest_dict(found) for found in result.contests],
    )


def decode_tables(result: DecodeBenchResult) -> list[RenderableType]:
    """Show per contest its models and who is missing; then the machine and how it was measured."""
    parts: list[RenderableType | None] = []
    for found in result.contests:
        parts += [_contest_table(result, found), failures_table(found.failures)]
    prompt = result.bench.prompt
    calls = result.rules.rounds * (result.rules.calls + result.rules.warmup)
    as_taken = ", as ONNX Runtime's MatMulNBits takes them" if is_usual(result.bench) else ""
    how = [
        ("a call", f"one token, with a KV cache of {prompt} to {prompt + calls} positions"),
        ("reads", "weights that a token has to read, by the program; dense / sparse is what the bytes allow"),
        ("dense", f"groups of quantised weights run along the inputs{as_taken}"),
        ("weights", f"random, seed {result.bench.seed}"),
    ]
    return stack(*parts, machine_table(result.machine), rules_table(result.rules, how))


def _contest_dict(found: DecodeContest) -> dict[str, Any]:
    return {
        "format": found.format,
        "roof_bytes_per_s": found.roofline_bytes_per_s,
        "rows": [_row_dict(row) for row in found.rows],
        "failures": failure_dicts(found.failures),
    }


def _row_dict(row: DecodeRow) -> dict[str, Any]:
    return {
        "passes": row.passes,
        "pipeline": row.pipeline,
        "tokens_per_second": row.tokens_per_second,
        **times_dict(row.timing),
        "file_bytes": row.file_bytes,
        "speedup": row.speedup,
        "allowed_speedup": row.allowed_speedup,
        "reached": row.reached,
        "share_of_roof": row.roofline_share,
    }


def _contest_table(result: DecodeBenchResult, found: DecodeContest) -> RenderableType:
    title = f"decoding with {result.bench.config.stem}, {found.format}, in {runtime_of(result.bench.backend)}"
    if result.parameters is not None:
        title += f": {number(result.parameters / 1e6)} M parameters, {result.layers} layers"
    if found.roofline_bytes_per_s is not None:
        title += f"; memory {format_bandwidth(found.roofline_bytes_per_s)}"
    columns = ("", ">tokens/s", ">10-90 %", ">reads", ">of memory", ">speed-up", ">allowed", ">reached")
    return table(title, columns, [_row(row) for row in found.rows])


def _row(row: DecodeRow) -> tuple[str, ...]:
    slow, fast = (1 / row.timing.quantile_s(q) for q in (0.9, 0.1))
    return (
        row.passes,
        number(row.tokens_per_second, 3),
        f"{number(slow, 3)} - {number(fast, 3)}",
        format_bytes(row.bytes_per_token),
        percent(row.roofline_share),
        ratio_text(row.speedup),
        NONE if row.allowed_speedup is None else f"{number(row.allowed_speedup, 3)}x",
        percent(row.reached),
    )
