"""A study as a dict and as tables: targets, points, findings, and what all of them depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dipc.documents import JsonObject, document
from dipc.quantities import NONE, format_bandwidth, format_bytes, number, percent, share
from dipc.report.study_findings import study_sentences
from dipc.report.study_frontier import frontier_tables
from dipc.report.table import by_reason, facts, stack, table
from dipc.studies.study.findings import middle_flash
from dipc.studies.study.result import TokenCost

if TYPE_CHECKING:
    from dipc.studies.study.result import Point, Study, Target

_POINTS = ("method", ">density", ">gamma", "policy", ">perplexity", ">hits", ">missed", ">tok/s", ">x dense")
_TARGETS = ("method", ">gamma", "policy", ">DRAM", ">flash", ">density", ">tok/s", ">x dense", "")
INTERPOLATED = "~"
_NOTES = (
    "tok/s are simulated; hits: bytes found in the cache, of all that the MLPs read; missed: those that were not, of "
    "all bytes of the MLPs; x dense: beside the dense model on the same device",
    f"{INTERPOLATED} between two measured densities, which the JSON names: time per token on a line over perplexity",
)


def study_dict(found: Study) -> JsonObject:
    """All figures, and all that they depend on."""
    return document(
        "study",
        simulated=True,
        **{name: value for name, value in vars(found).items() if name not in ("points", "findings")},
        findings=study_sentences(found),
        points=[point_dict(point) for point in found.points],
    )


_NO_COST: JsonObject = {field.name: [] if field.name == "layers" else None for field in dataclasses.fields(TokenCost)}


def point_dict(point: Point) -> JsonObject:
    """A point and its cost side by side; what has no cost has null."""
    own = {name: value for name, value in vars(point).items() if name != "cost"}
    return {**own, **(vars(point.cost) if point.cost else _NO_COST)}


def study_tables(found: Study) -> list[RenderableType]:
    """Targets, points for each DRAM, the findings, and what was measured on."""
    places = list(dict.fromkeys((p.dram_bytes, p.flash_bytes_per_s) for p in found.points))
    shown = [p for p in places if p[1] == middle_flash(found)] if found.targets else places
    parts: list[RenderableType | None] = []
    for increase in dict.fromkeys(t.max_ppl_increase for t in found.targets):
        chosen = [t for t in found.targets if t.max_ppl_increase == increase]
        parts.append(_targets_table(increase, chosen))
    for place in shown:
        points = [p for p in found.points if (p.dram_bytes, p.flash_bytes_per_s) == place and p.cost]
        parts.append(table(place_text(*place), _POINTS, map(_point_cells, points)) if points else None)
    parts += frontier_tables(found)
    if len(shown) < len(places):
        parts.append(Text(f"points of {len(places) - len(shown)} more devices are in the JSON"))
    reasons = by_reason((point.id, point.reason) for point in found.points)
    parts.append(table("incomplete", ("points", "reason"), reasons) if reasons else None)
    if found.findings:
        sentences = [("-", sentence) for sentence in study_sentences(found)]
        parts.append(table("what the figures show", ("", ""), sentences, header=False))
    parts.append(facts("studied", study_facts(found)))
    return stack(*parts, Text("\n".join(_NOTES if found.targets else _NOTES[:1]), style="dim"))


def place_text(dram_bytes: int, flash_bytes_per_s: float | None) -> str:
    """`4 GB of DRAM, flash 1 GB/s`."""
    flash = "" if flash_bytes_per_s is None else f", flash {format_bandwidth(flash_bytes_per_s)}"
    return f"{format_bytes(dram_bytes)} of DRAM{flash}"


def study_facts(found: Study) -> list[tuple[str, str]]:
    """Return what all points share, as names and values."""
    model, text = found.model, found.text
    rows = [
        ("model", f"{model['name']} ({model['digest']}), {format_bytes(model['bytes'])}"),
        ("bits per weight", f"{model['bits_per_weight']:g}"),
        ("device", f"{found.device['name']}: {found.device['description']}"),
        ("reads", found.settings["reads"]["described"]),
        ("context", f"{found.settings['context']:,} positions of KV cache"),
        ("scope", found.scope),
    ]
    if text is not None:
        rows.append(("text", f"{text['name']} ({text['digest']}), {text['tokens']:,} tokens scored"))
        rows.append(("windows", f"{text['seq_len']:,} tokens, protocol {text['protocol']}"))
    if found.warmup is not None:
        rows.append(("warm-up", f"{found.warmup:,} tokens that fill the caches"))
    rows += [("activity", source) for source in dict.fromkeys(p.source for p in found.points if p.seed is not None)]
    return rows


def _point_cells(point: Point) -> list[str]:
    cost = point.cost
    assert cost is not None
    return [
        point.method,
        share(point.density_measured),
        share(point.gamma),
        point.policy,
        number(point.perplexity),
        percent(cost.hit_rate),
        share(cost.missed_share),
        number(cost.tokens_per_second),
        number(cost.speedup, 3),
    ]


def _targets_table(increase: float, targets: Sequence[Target]) -> RenderableType:
    rows = [_target_cells(target) for target in targets]
    empty = [n for n in range(len(_TARGETS)) if all(row[n] in (NONE, "") for row in rows)]
    columns = [name for n, name in enumerate(_TARGETS) if n not in empty]
    kept = [[cell for n, cell in enumerate(row) if n not in empty] for row in rows]
    return table(f"fastest within +{number(increase)} of the dense perplexity", columns, kept)


def _target_cells(target: Target) -> list[str]:
    flash = target.flash_bytes_per_s
    return [
        target.method,
        share(target.gamma),
        target.policy,
        format_bytes(target.dram_bytes),
        NONE if flash is None else format_bandwidth(flash),
        share(target.density),
        number(target.tokens_per_second),
        number(target.speedup, 3),
        INTERPOLATED if target.interpolated else target.reason or "",
    ]
