"""Contests: what the reports of all benches share, and the contest of the cache-aware selection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType

from dipc.documents import json_value
from dipc.quantities import NONE, format_bytes, format_chunk, number
from dipc.report.table import facts, table
from dipc.studies.bench import cache_aware
from dipc.studies.bench.contest import CaseKey, Failure, Outcome, Rules
from dipc.studies.bench.machine import Machine
from dipc.studies.bench.options import DecodeOptions, EvalOptions
from dipc.studies.bench.timing import Ratio, Timing, speedup


def times_dict(timing: Timing) -> dict[str, Any]:
    """Return median and spread in milliseconds, and every call of every round in seconds."""
    return {
        "median_ms": 1e3 * timing.median_s,
        "low_ms": 1e3 * timing.quantile_s(0.1),
        "high_ms": 1e3 * timing.quantile_s(0.9),
        "least_ms": 1e3 * timing.quantile_s(0.0),
        "bytes_read": timing.bytes_read,
        "bytes_per_s": timing.bytes_per_s,
        "rested": timing.idle,
        "rounds_s": timing.rounds,
    }


def times_text(timing: Timing) -> tuple[str, str]:
    """Return the median in milliseconds, and the range that holds all but a tenth of the calls at each end."""
    low, middle, high = (1e3 * timing.quantile_s(q) for q in (0.1, 0.5, 0.9))
    return number(middle, 3), f"{number(low, 3)} - {number(high, 3)}"


def ratio_text(ratio: Ratio | None) -> str:
    """Return a speed-up as "1.93x"."""
    return NONE if ratio is None else f"{number(ratio.value, 3)}x"


def failure_dicts(failures: Iterable[Failure]) -> list[dict[str, Any]]:
    """Return the candidates that gave no figures, and why."""
    return [{"contender": f.candidate, "case": f.case, "reason": f.reason, "absent": f.absent} for f in failures]


def failures_table(failures: Iterable[Failure]) -> RenderableType | None:
    """Show who gave no figures and why; None where all did."""
    rows = [(f.candidate, f.case or "all", "absent" if f.absent else "failed", f.reason) for f in failures]
    return table("without figures", ("contender", "what", "", "reason"), rows) if rows else None


def machine_table(machine: Machine) -> RenderableType:
    """Show the machine and the versions."""
    load = NONE if machine.load is None else f"{machine.load:.2f} processes in the last minute, before the start"
    rows = [
        ("processor", machine.processor),
        ("cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical, for this process"),
        ("last-level cache", NONE if machine.last_cache_bytes is None else format_chunk(machine.last_cache_bytes)),
        ("memory", NONE if machine.memory_bytes is None else format_bytes(machine.memory_bytes)),
        *([] if machine.gpu is None else [("GPU", machine.gpu)]),
        ("instruction set", machine.instruction_set),
        ("system", machine.system),
        ("load", load),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    return facts("measured on", rows)


def rules_table(rules: Rules, more: Iterable[tuple[str, str]]) -> RenderableType:
    """Show how the candidates took turns."""
    turns = f"{rules.rounds} rounds of {rules.calls} calls each, after {rules.warmup} untimed ones"
    rows = [
        ("processes", "one per contender, one at work at a time, at rest before the next begins"),
        ("turns", f"interleaved: {turns}"),
        ("threads", f"{rules.threads} each"),
        *more,
        ("figures", "medians of all calls; the range leaves out a tenth of them at each end"),
    ]
    return facts("how", rows)


def is_usual(bench: DecodeOptions | EvalOptions) -> bool:
    """Return whether the backend is the one that runs where none is chosen."""
    return bench.backend == type(bench).backend


def backend_setting(bench: DecodeOptions | EvalOptions) -> dict[str, str]:
    """Return the backend, where one was chosen."""
    return {} if is_usual(bench) else {"backend": bench.backend}


def scan_dict(scan: Outcome) -> dict[str, Any]:
    """Return the times of the closed loop, and how many times faster a scan was than torch's loop on its device."""
    found = _scans_dict(scan, "native", cache_aware.NATIVE, cache_aware.TORCH)
    if any(key in scan.timings for key in (cache_aware.TRITON, cache_aware.TORCH_ON_GPU)):
        found["gpu"] = _scans_dict(scan, "triton", cache_aware.TRITON, cache_aware.TORCH_ON_GPU)
    return {**found, "failures": failure_dicts(scan.failures)}


def _scans_dict(scan: Outcome, name: str, fast: CaseKey, slow: CaseKey) -> dict[str, Any]:
    scanned, torch = scan.timings.get(fast), scan.timings.get(slow)
    return {
        name: None if scanned is None else times_dict(scanned),
        "torch": None if torch is None else times_dict(torch),
        "speedup": None if scanned is None or torch is None else json_value(speedup(scanned, torch)),
    }


def scan_table(scan: Outcome) -> RenderableType:
    """Show how long the closed loop took, as a scan and in torch on the same device."""
    rows = []
    for (name, case), timing in scan.timings.items():
        on_gpu = (name, case) in (cache_aware.TRITON, cache_aware.TORCH_ON_GPU)
        torch = scan.timings.get(cache_aware.TORCH_ON_GPU if on_gpu else cache_aware.TORCH)
        ratio = speedup(timing, torch) if torch is not None else None
        rows.append((name, *times_text(timing), ratio_text(ratio)))
    title = f"cache-aware selection, per token: {cache_aware.UNITS} units, half kept, lfu"
    return table(title, ("contender", ">ms", ">10-90 %", ">speed-up"), rows)
