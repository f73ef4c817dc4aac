"""The contest of one gated MLP: each candidate's time, beside the fastest dense one and what the memory gives."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from dipc.documents import document
from dipc.quantities import NONE, format_bytes, number, percent
from dipc.report.bench import (
    failure_dicts,
    failures_table,
    machine_table,
    ratio_text,
    rules_table,
    scan_dict,
    scan_table,
    times_dict,
    times_text,
)
from dipc.report.table import stack, table
from dipc.studies.bench.kernel_rows import KernelRow
from dipc.studies.bench.kernels import FormatResult, KernelBenchResult


def kernels_dict(result: KernelBenchResult) -> dict[str, Any]:
    """Return all figures, every call's time, and what they were measured on."""
    return document(
        "bench-kernels",
        machine=result.machine,
        settings=result.bench,
        rules=result.rules,
        formats=[_format_dict(found) for found in result.formats],
        scan=None if result.scan is None else scan_dict(result.scan),
    )


def kernels_tables(result: KernelBenchResult) -> list[RenderableType]:
    """Show per format the MLP, its parts and who is missing; then the scan, the machine and how it was measured."""
    parts: list[RenderableType | None] = []
    for found in result.formats:
        parts += [_mlp_table(found), _parts_table(found), failures_table(found.failures)]
    if result.scan is not None:
        parts += [scan_table(result.scan), failures_table(result.scan.failures)]
    cold = [row for found in result.formats for row in _cold_row(found)]
    return stack(*parts, machine_table(result.machine), rules_table(result.rules, cold))


def _format_dict(found: FormatResult) -> dict[str, Any]:
    return {
        "format": found.task.format,
        "task": found.task,
        "is_cold": found.is_cold,
        "cold_bytes": found.cold_bytes,
        "roof_bytes_per_s": found.roofline_bytes_per_s,
        "best_dense": found.best_dense,
        "rows": [_row_dict(row) for row in found.rows],
        "failures": failure_dicts(found.failures),
    }


def _row_dict(row: KernelRow) -> dict[str, Any]:
    return {
        "contender": row.candidate,
        "part": row.part,
        "density": row.density,
        **times_dict(row.timing),
        "speedup": row.speedup,
        "share_of_roof": row.roofline_share,
        "share_of_mlp": row.mlp_share,
        "deviation": row.deviation,
    }


def _mlp_table(found: FormatResult) -> RenderableType:
    task = found.task
    what = "one token" if task.tokens == 1 else f"{task.tokens} tokens"
    title = f"{what} through a SwiGLU MLP of {task.d_model} x {task.d_ff}, {_format_text(found)}"
    whole = [row for row in found.rows if row.part in ("MLP", "read")]
    if task.tokens > 1:
        prefill = ("contender", "density", ">ms", ">10-90 %", ">time / dense")
        return table(title, prefill, [(*_named(row), *times_text(row.timing), _slowdown(row)) for row in whole])
    traffic = (">reads", ">GB/s", ">of memory", ">speed-up")
    columns = ("contender", "density", ">ms", ">10-90 %", *traffic)
    return table(title, columns, [(*_named(row), *_traffic(row), ratio_text(row.speedup)) for row in whole])


def _parts_table(found: FormatResult) -> RenderableType | None:
    parts = [row for row in found.rows if row.part not in ("MLP", "read")]
    rows = [(row.part, _named(row)[1], *_traffic(row), percent(row.mlp_share)) for row in parts]
    columns = ("part", "density", ">ms", ">10-90 %", ">reads", ">GB/s", ">of memory", ">of the MLP")
    return table(f"parts of {parts[0].candidate}, each alone", columns, rows) if parts else None


def _format_text(found: FormatResult) -> str:
    task = found.task
    if not task.format.startswith("int"):
        return task.format
    return f"{task.format} in groups of {task.group} along the {('inputs', 'outputs')[task.axis]}"


def _named(row: KernelRow) -> tuple[str, str]:
    if row.part == "read":
        return row.candidate, NONE
    return row.candidate, "dense" if row.density is None else f"{row.density:g}"


def _traffic(row: KernelRow) -> tuple[str, ...]:
    timing = row.timing
    if not timing.bytes_read:
        return *times_text(timing), NONE, NONE, NONE
    rate = number(timing.bytes_per_s / 1e9, 3)
    return *times_text(timing), format_bytes(timing.bytes_read), rate, percent(row.roofline_share)


def _slowdown(row: KernelRow) -> str:
    return NONE if row.speedup is None else number(1 / row.speedup.value, 3)


def _cold_row(found: FormatResult) -> list[tuple[str, str]]:
    """Show what the caches could hold of the weights."""
    if found.task.tokens > 1:
        return []
    layers = found.task.layers
    text = "1 MLP; " if layers == 1 else f"{layers} MLPs in turn, each with weights of its own; "
    text += f"{format_bytes(found.cold_bytes)} or more are read before a weight is read again"
    if not found.is_cold:
        text += ": THE CACHES HOLD MUCH OF THAT, so these are not figures of the memory"
    return [(f"{found.task.format}", text)]
