"""The parts of a program: the model, its selection sites, and the bytes of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.ir.selections import cache_aware
from dipc.ir.site import SiteId
from dipc.ir.stored_dtype import stored_bytes
from dipc.ir.weight_parts import values_per_entry
from dipc.memory.lowering import active_units, lower, mean_bits, program_density
from dipc.quantities import NONE, format_bytes, number, ranges, share
from dipc.report.compiled import pass_dict, pass_table
from dipc.report.stored import stored_rows, stored_table
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.ir.program import Program
    from dipc.memory.traffic import TrafficProgram
    from dipc.pipeline.runner import PassLog


@dataclass(frozen=True)
class SiteRow:
    """One site: `active` units of `units` are read per token, and `capacity` of them are cached in `policy`'s order."""

    name: str
    layer: int
    units: int
    active: int
    unit_bytes: float
    unit_weights: float
    unit_kept_weights: float
    size_bytes: float
    policy: str | None
    capacity: int | None

    @property
    def id(self) -> SiteId:
        """Which site it is."""
        return SiteId.parse(self.name)


def site_rows(program: Program, traffic: TrafficProgram) -> list[SiteRow]:
    """Every site of the program in order."""
    active, aware = active_units(program), cache_aware(program)
    rows = []
    for s in traffic.sites:
        units = (s.units, active.get(s.name, s.units), s.unit_bytes, s.unit_weights, s.kept_weights / s.units)
        rows.append(SiteRow(s.name, s.layer, *units, s.size_bytes, *aware.get(s.name, (None, None))))
    return rows


def program_dict(program: Program, log: Sequence[PassLog], layer: int | None = None) -> JsonObject:
    """Model, method, passes, sites (of one layer, or all) and totals in bytes."""
    traffic = lower(program)
    return document(
        "program",
        model={**vars(program.info), "parameters": program.parameter_count},
        method=program.method,
        passes=[pass_dict(entry) for entry in log],
        sites=[row for row in site_rows(program, traffic) if layer in (None, row.layer)],
        weights=stored_rows(program),
        totals={
            "mlp_bytes": traffic.mlp_bytes,
            "resident_bytes": traffic.resident_bytes,
            "stored_bytes": stored_bytes(program.weights, program.info) if program.info.has_weights else None,
            "kv_bytes_per_position": traffic.kv_bytes_per_position,
            "kv_windows": traffic.kv_windows,
            "bits_per_weight": mean_bits(program),
            "density": program_density(program),
        },
    )


def program_tables(program: Program, log: Sequence[PassLog], layer: int | None = None) -> list[RenderableType]:
    """The same for people: layers whose sites are alike share a row."""
    traffic = lower(program)
    rows = [row for row in site_rows(program, traffic) if layer in (None, row.layer)]
    columns = ["layers", "site", ">units", ">active", ">unit", ">site", ">cached units"]
    aware = any(row.capacity is not None for row in rows)
    totals = [
        ("all sites (the MLPs)", format_bytes(traffic.mlp_bytes)),
        ("resident (all else)", format_bytes(traffic.resident_bytes)),
        ("KV cache", _kv_cache(traffic)),
        ("density of the MLPs", share(program_density(program))),
    ]
    return stack(
        facts("model", _model_facts(program)),
        pass_table("passes", log) if log else None,
        table("sites", columns if aware else columns[:-1], _grouped(rows, aware)),
        stored_table(program),
        facts("totals", totals),
    )


def _kv_cache(traffic: TrafficProgram) -> str:
    """Bytes per position, and of how many positions where layers have a window."""
    parts = [
        f"{format_bytes(w.bytes_per_position)} of them in {w.layers} layer{'s' if w.layers > 1 else ''} that "
        f"keep{'' if w.layers > 1 else 's'} {w.positions:,} positions"
        for w in traffic.kv_windows
    ]
    return ", ".join([f"{format_bytes(traffic.kv_bytes_per_position)} per position", *parts])


def _model_facts(program: Program) -> list[tuple[str, str]]:
    info, method = program.info, program.method
    bits, exact = mean_bits(program), not (values_per_entry(program.graph) or info.own_bits)
    width = f"{bits:g} bits each" if exact else f"{bits:.3g} bits each on average, scales included"
    weights = width if info.has_weights else f"absent; {width}"
    rows = [
        ("name", info.name),
        ("family", f"{info.family}, {info.layers} layers, d_model {info.d_model:,}, vocabulary {info.vocab:,}"),
        ("context", f"{info.context:,} tokens"),
        ("parameters", number(program.parameter_count)),
        ("weights", weights),
        *([("stored", _stored(program))] if info.has_weights else []),
        ("digest", info.digest),
        ("method", method.options or method.name),
    ]
    return rows if method.name == "dense" else [*rows, ("scope", method.scope)]


def _stored(program: Program) -> str:
    """Bytes of the weights in a compiled folder, and of those that are computed with where these are more."""
    size, wide = stored_bytes(program.weights, program.info), sum(w.nbytes for w in program.weights.values())
    return format_bytes(size) if size == wide else f"{format_bytes(size)}, and {format_bytes(wide)} as it computes"


def _grouped(rows: list[SiteRow], aware: bool) -> list[list[str]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        cells = [row.id.place, number(row.units), number(row.active)]
        cells += [format_bytes(row.unit_bytes), format_bytes(row.size_bytes)]
        if aware:
            cells.append(NONE if row.capacity is None else f"{row.capacity:,} {row.policy}")
        groups.setdefault(tuple(cells), []).append(row.layer)
    return [[ranges(layers), *cells] for cells, layers in groups.items()]
