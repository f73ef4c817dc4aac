"""Contests: how long each contender took, beside the fastest dense one and what the memory gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dipc.documents import document, json_value
from dipc.quantities import NONE, format_bytes, format_chunk, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.studies.bench.contest import Failure, Measured, Outcome, Ratio, Rules
    from dipc.studies.bench.kernels import FormatResult, KernelsResult, Row
    from dipc.studies.bench.machine import Machine


def kernels_dict(result: KernelsResult) -> dict[str, Any]:
    """All figures, every call's time, and what they were measured on."""
    return document(
        "bench-kernels",
        machine=result.machine,
        settings=result.settings,
        rules=result.rules,
        formats=[_format_dict(found) for found in result.formats],
        scan=None if result.scan is None else scan_dict(result.scan),
    )


def kernels_tables(result: KernelsResult) -> list[RenderableType]:
    """Per format the MLP, its parts and who is missing; then the scan, the machine and how it was measured."""
    from dipc.report.table import stack

    parts: list[RenderableType | None] = []
    for found in result.formats:
        parts += [_mlp_table(found), _parts_table(found), failures_table(found.failures)]
    if result.scan is not None:
        parts += [scan_table(result.scan), failures_table(result.scan.failures)]
    cold = [row for found in result.formats for row in _cold_row(found, result.machine)]
    return stack(*parts, machine_table(result.machine), rules_table(result.rules, cold))


def times_dict(measured: Measured) -> dict[str, Any]:
    """Median and spread in milliseconds, and every call of every round in seconds."""
    return {
        "median_ms": 1e3 * measured.median_s,
        "low_ms": 1e3 * measured.quantile_s(0.1),
        "high_ms": 1e3 * measured.quantile_s(0.9),
        "least_ms": 1e3 * measured.quantile_s(0.0),
        "bytes_read": measured.bytes_read,
        "bytes_per_s": measured.bytes_per_s,
        "rested": measured.rested,
        "rounds_s": measured.rounds,
    }


def times_text(measured: Measured) -> tuple[str, str]:
    """The median in milliseconds, and the range that holds all but a tenth of the calls at each end."""
    low, middle, high = (1e3 * measured.quantile_s(q) for q in (0.1, 0.5, 0.9))
    return number(middle, 3), f"{number(low, 3)} - {number(high, 3)}"


def ratio_text(ratio: Ratio | None) -> str:
    """A speed-up as "1.93x"."""
    return NONE if ratio is None else f"{number(ratio.value, 3)}x"


def failures_table(failures: Iterable[Failure]) -> RenderableType | None:
    """Who gave no figures and why; None where all did."""
    from dipc.report.table import table

    rows = [(f.contender, f.case or "all", "absent" if f.absent else "failed", f.reason) for f in failures]
    return table("without figures", ("contender", "what", "", "reason"), rows) if rows else None


def machine_table(machine: Machine) -> RenderableType:
    """The machine and the versions."""
    from dipc.report.table import facts

    load = NONE if machine.load is None else f"{machine.load:.2f} processes in the last minute, before the start"
    rows = [
        ("processor", machine.processor),
        ("cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical, for this process"),
        ("last-level cache", NONE if machine.last_cache_bytes is None else format_chunk(machine.last_cache_bytes)),
        ("memory", NONE if machine.memory_bytes is None else format_bytes(machine.memory_bytes)),
        ("instruction set", machine.instruction_set),
        ("system", machine.system),
        ("load", load),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    return facts("measured on", rows)


def rules_table(rules: Rules, more: Iterable[tuple[str, str]]) -> RenderableType:
    """How the contenders took turns."""
    from dipc.report.table import facts

    turns = f"{rules.rounds} rounds of {rules.calls} calls each, after {rules.warmup} untimed ones"
    rows = [
        ("processes", "one per contender, one at work at a time, at rest before the next begins"),
        ("turns", f"interleaved: {turns}"),
        ("threads", f"{rules.threads} each"),
        *more,
        ("figures", "medians of all calls; the range leaves out a tenth of them at each end"),
    ]
    return facts("how", rows)


def _format_dict(found: FormatResult) -> dict[str, Any]:
    return {
        "format": found.task.format,
        "task": found.task,
        "is_cold": found.is_cold,
        "cold_bytes": found.cold_bytes,
        "roof_bytes_per_s": found.roof_bytes_per_s,
        "best_dense": found.best_dense,
        "rows": [_row_dict(row) for row in found.rows],
        "failures": found.failures,
    }


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        "contender": row.contender,
        "part": row.part,
        "density": row.density,
        **times_dict(row.measured),
        "speedup": row.ratio,
        "share_of_roof": row.roof,
        "share_of_mlp": row.share,
        "deviation": row.deviation,
    }


def _mlp_table(found: FormatResult) -> RenderableType:
    from dipc.report.table import table

    task = found.task
    what = "one token" if task.tokens == 1 else f"{task.tokens} tokens"
    title = f"{what} through a SwiGLU MLP of {task.d_model} x {task.d_ff}, {_format_text(found)}"
    whole = [row for row in found.rows if row.part in ("MLP", "read")]
    if task.tokens > 1:
        prefill = ("contender", "density", ">ms", ">10-90 %", ">time / dense")
        return table(title, prefill, [(*_named(row), *times_text(row.measured), _slowdown(row)) for row in whole])
    traffic = (">reads", ">GB/s", ">of memory", ">speed-up")
    columns = ("contender", "density", ">ms", ">10-90 %", *traffic)
    return table(title, columns, [(*_named(row), *_traffic(row), ratio_text(row.ratio)) for row in whole])


def _parts_table(found: FormatResult) -> RenderableType | None:
    from dipc.report.table import table

    parts = [row for row in found.rows if row.part not in ("MLP", "read")]
    rows = [(row.part, _named(row)[1], *_traffic(row), percent(row.share)) for row in parts]
    columns = ("part", "density", ">ms", ">10-90 %", ">reads", ">GB/s", ">of memory", ">of the MLP")
    return table(f"parts of {parts[0].contender}, each alone", columns, rows) if parts else None


def _format_text(found: FormatResult) -> str:
    task = found.task
    if not task.format.startswith("int"):
        return task.format
    return f"{task.format} in groups of {task.group} along the {('inputs', 'outputs')[task.axis]}"


def _named(row: Row) -> tuple[str, str]:
    if row.part == "read":
        return row.contender, NONE
    return row.contender, "dense" if row.density is None else f"{row.density:g}"


def _traffic(row: Row) -> tuple[str, ...]:
    found = row.measured
    if not found.bytes_read:
        return *times_text(found), NONE, NONE, NONE
    rate = number(found.bytes_per_s / 1e9, 3)
    return *times_text(found), format_bytes(found.bytes_read), rate, percent(row.roof)


def _slowdown(row: Row) -> str:
    return NONE if row.ratio is None else number(1 / row.ratio.value, 3)


def _cold_row(found: FormatResult, machine: Machine) -> list[tuple[str, str]]:
    """What the caches could hold of the weights."""
    if found.task.tokens > 1:
        return []
    layers = found.task.layers
    text = "1 MLP; " if layers == 1 else f"{layers} MLPs in turn, each with weights of its own; "
    text += f"{format_bytes(found.cold_bytes)} or more are read before a weight is read again"
    if not found.is_cold:
        text += ": THE CACHES HOLD MUCH OF THAT, so these are not figures of the memory"
    return [(f"{found.task.format}", text)]


def _scan_pair(scan: Outcome) -> tuple[Measured | None, Measured | None]:
    from dipc.studies.bench.kernels import NATIVE_SCAN, TORCH_SCAN
    from dipc.studies.bench.scan import CASE

    return scan.measured.get((NATIVE_SCAN, CASE)), scan.measured.get((TORCH_SCAN, CASE))


def scan_dict(scan: Outcome) -> dict[str, Any]:
    """Both times of the closed loop, and how many times faster the native one was."""
    from dipc.studies.bench.contest import speedup

    native, torch = _scan_pair(scan)
    return {
        "native": None if native is None else times_dict(native),
        "torch": None if torch is None else times_dict(torch),
        "speedup": None if native is None or torch is None else json_value(speedup(native, torch)),
        "failures": json_value(scan.failures),
    }


def scan_table(scan: Outcome) -> RenderableType:
    """The closed loop, native and in torch."""
    from dipc.report.table import table
    from dipc.studies.bench.contest import speedup
    from dipc.studies.bench.kernels import SCAN_UNITS

    rows = []
    _, torch = _scan_pair(scan)
    for (name, _), found in scan.measured.items():
        ratio = speedup(found, torch) if torch is not None else None
        rows.append((name, *times_text(found), ratio_text(ratio)))
    title = f"cache-aware selection, per token: {SCAN_UNITS} units, half kept, lfu"
    return table(title, ("contender", ">ms", ">10-90 %", ">speed-up"), rows)
