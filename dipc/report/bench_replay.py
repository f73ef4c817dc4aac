"""The contest of replays: masks run through one site's caches beside others' simulators, and through a model's."""

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
)
from dipc.report.table import facts, stack, table
from dipc.studies.bench.replay import NATIVE, ReplayBenchResult, ReplayRow
from dipc.studies.bench.replay_model import ModelReplayResult


def replay_dict(result: ReplayBenchResult) -> dict[str, Any]:
    """Return all figures, every call's time, and what they were measured on."""
    return document(
        "bench-replay",
        machine=result.machine,
        settings=result.bench,
        rules=result.rules,
        rows=[_row_dict(row) for row in result.rows],
        failures=failure_dicts(result.failures),
        scan=scan_dict(result.scan),
    )


def replay_tables(result: ReplayBenchResult) -> list[RenderableType]:
    """Show who replayed what how fast, the closed loop, who is missing; then the machine and how it was measured."""
    bench = result.bench
    title = f"replay of {bench.tokens} tokens, {bench.units} units, {percent(bench.capacity)} of them cached"
    columns = ("policy", ">density", "", ">caches", ">us/token", ">10-90 %", ">M accesses/s", ">dipc is", ">hit rate")
    how = [
        ("a call", "the whole trace through cold caches; the time is of a token, through all of its caches"),
        ("all at once", "every policy, at 1/2, 1 and 3/2 of the capacity"),
        ("the masks", "a token's units have a popularity, and noise of which half lasts to the next token"),
        ("no choice", "where a token's units are just as many as fit, all policies that protect them keep those"),
        ("libCacheSim", "takes one unit at a time, so that its caches hold, and hit, something else"),
    ]
    return stack(
        table(title, columns, [_row(row) for row in result.rows]),
        scan_table(result.scan),
        failures_table([*result.failures, *result.scan.failures]),
        machine_table(result.machine),
        rules_table(result.rules, how),
    )


def model_replay_dict(result: ModelReplayResult) -> dict[str, Any]:
    """Return all figures, and what they were measured on."""
    return document(
        "bench-replay-model",
        machine=result.machine,
        settings=result.bench,
        sites=result.sites,
        units=result.units,
        accesses=result.accesses,
        wall_s=result.wall_s,
        accesses_per_s=result.accesses_per_s,
        peak_bytes=result.peak_bytes,
        hit_rates=[
            {"policy": policy, "capacity": share, "hit_rate": rate}
            for (policy, share), rate in zip(result.bench.cases, result.hit_rates, strict=True)
        ],
    )


def model_replay_tables(result: ModelReplayResult) -> list[RenderableType]:
    """Show time, speed and memory; hit rates by cache; the machine."""
    bench = result.bench
    made = facts(
        f"replay of {bench.tokens:,} tokens through every site of {bench.model}",
        [
            ("sites", f"{result.sites}, with {result.units:,} units"),
            ("pipeline", bench.passes),
            ("caches of a site", number(len(bench.cases))),
            ("accesses", f"{result.accesses:.3g}, counted once per cache"),
            ("time", f"{result.wall_s:.1f} s on {bench.threads} threads"),
            ("speed", f"{1e-6 * result.accesses_per_s:,.0f} million accesses per second"),
            (
                "memory",
                f"{format_bytes(result.peak_bytes)} at most, of the whole process" if result.peak_bytes else NONE,
            ),
            ("masks", f"made up: {bench.pool} tokens over and over, by every site from another one on"),
        ],
    )
    rates = [
        (policy, percent(share), percent(rate))
        for (policy, share), rate in zip(bench.cases, result.hit_rates, strict=True)
    ]
    return stack(made, table("", ("policy", ">cached", ">hit rate"), rates), machine_table(result.machine))


def _row_dict(row: ReplayRow) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "density": row.density,
        "contender": row.candidate,
        "caches": row.caches,
        **times_dict(row.timing),
        "accesses_per_s": row.accesses_per_s,
        "hit_rate": row.hit_rate,
        "dipc_is_faster_by": row.native_speedup,
    }


def _row(row: ReplayRow) -> tuple[str, ...]:
    low, middle, high = (number(1e6 * row.timing.quantile_s(share), 3) for share in (0.1, 0.5, 0.9))
    return (
        row.policy,
        f"{row.density:g}",
        row.candidate,
        number(row.caches),
        middle,
        f"{low} - {high}",
        number(1e-6 * row.accesses_per_s, 3),
        "" if row.candidate == NATIVE else f"{ratio_text(row.native_speedup)} faster",
        percent(row.hit_rate),
    )
