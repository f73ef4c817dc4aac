"""How fast masks run through caches: one site beside others' simulators, and a whole model's sites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dipc.documents import document
from dipc.quantities import NONE, format_bytes, number, percent
from dipc.report.bench import failures_table, machine_table, ratio_text, rules_table, scan_dict, scan_table, times_dict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.studies.bench.replay import ReplayResult, Row
    from dipc.studies.bench.replay_model import ModelReplay


def replay_dict(result: ReplayResult) -> dict[str, Any]:
    """All figures, every call's time, and what they were measured on."""
    return document(
        "bench-replay",
        machine=result.machine,
        settings=result.settings,
        rules=result.rules,
        rows=[_row_dict(row) for row in result.rows],
        failures=result.failures,
        scan=scan_dict(result.scan),
    )


def replay_tables(result: ReplayResult) -> list[RenderableType]:
    """Who replayed what how fast, the closed loop, who is missing; then the machine and how it was measured."""
    from dipc.report.table import stack, table

    settings = result.settings
    title = f"replay of {settings.tokens} tokens, {settings.units} units, {percent(settings.capacity)} of them cached"
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


def model_replay_dict(result: ModelReplay) -> dict[str, Any]:
    """All figures, and what they were measured on."""
    return document(
        "bench-replay-model",
        machine=result.machine,
        settings=result.settings,
        sites=result.sites,
        units=result.units,
        accesses=result.accesses,
        wall_s=result.wall_s,
        accesses_per_s=result.accesses_per_s,
        peak_bytes=result.peak_bytes,
        hit_rates=[
            {"policy": policy, "capacity": share, "hit_rate": rate}
            for (policy, share), rate in zip(result.settings.cases, result.hit_rates, strict=True)
        ],
    )


def model_replay_tables(result: ModelReplay) -> list[RenderableType]:
    """Time, speed and memory; hit rates by cache; the machine."""
    from dipc.report.table import facts, stack, table

    settings = result.settings
    made = facts(
        f"replay of {settings.tokens:,} tokens through every site of {settings.model}",
        [
            ("sites", f"{result.sites}, with {result.units:,} units"),
            ("pipeline", settings.passes),
            ("caches of a site", number(len(settings.cases))),
            ("accesses", f"{result.accesses:.3g}, counted once per cache"),
            ("time", f"{result.wall_s:.1f} s on {settings.threads} threads"),
            ("speed", f"{1e-6 * result.accesses_per_s:,.0f} million accesses per second"),
            (
                "memory",
                f"{format_bytes(result.peak_bytes)} at most, of the whole process" if result.peak_bytes else NONE,
            ),
            ("masks", f"made up: {settings.pool} tokens over and over, by every site from another one on"),
        ],
    )
    rates = [
        (policy, percent(share), percent(rate))
        for (policy, share), rate in zip(settings.cases, result.hit_rates, strict=True)
    ]
    return stack(made, table("", ("policy", ">cached", ">hit rate"), rates), machine_table(result.machine))


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "density": row.density,
        "contender": row.contender,
        "caches": row.caches,
        **times_dict(row.measured),
        "accesses_per_s": row.accesses_per_s,
        "hit_rate": row.hit_rate,
        "dipc_is_faster_by": row.ratio,
    }


def _row(row: Row) -> tuple[str, ...]:
    from dipc.studies.bench.replay import NATIVE

    low, middle, high = (number(1e6 * row.measured.quantile_s(share), 3) for share in (0.1, 0.5, 0.9))
    return (
        row.policy,
        f"{row.density:g}",
        row.contender,
        number(row.caches),
        middle,
        f"{low} - {high}",
        number(1e-6 * row.accesses_per_s, 3),
        "" if row.contender == NATIVE else f"{ratio_text(row.ratio)} faster",
        percent(row.hit_rate),
    )
