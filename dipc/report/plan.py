"""A plan as a dict and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dipc.documents import JsonObject, document
from dipc.quantities import NONE, format_bytes, number, percent, share
from dipc.report.study import place_text, point_dict, study_facts
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.studies.study.plan import Plan
    from dipc.studies.study.result import Point

_COLUMNS = ("", ">density", ">gamma", ">perplexity", ">tok/s", ">x dense")


def plan_dict(found: Plan) -> JsonObject:
    """Return what to use, what it gives, and all that this depends on."""
    study = found.study
    return document(
        "plan",
        simulated=True,
        model=study.model,
        text=study.text,
        device=study.device,
        settings=study.settings,
        scope=study.scope,
        dense_perplexity=study.dense_perplexity,
        max_ppl_increase=found.max_ppl_increase,
        passes=found.passes,
        reason=found.reason,
        choice=None if found.choice is None else point_dict(found.choice),
        dense=point_dict(found.dense),
        best=[point_dict(point) for point in found.best],
        help=[{"what": item.what, **point_dict(item.point)} for item in found.help],
    )


def plan_tables(found: Plan) -> list[RenderableType]:
    """Return what to use, beside dense and the other methods, and what would help."""
    choice = found.choice
    use = [("dense", found.reason or "")] if choice is None or choice.cost is None else _choice(found, choice)
    rows = [_row(point.method, point) for point in (found.dense, *found.best) if point.cost]
    help = [_row(item.what, item.point) for item in found.help]
    limit = f"fastest within +{number(found.max_ppl_increase)} of the dense perplexity, measured"
    return stack(
        facts(f"use, with {place_text(found.dense.dram_bytes, found.dense.flash_bytes_per_s)}", use),
        table(limit, _COLUMNS, rows),
        table("the same with", _COLUMNS, help) if help else None,
        facts("planned for", study_facts(found.study)),
        Text("tok/s are simulated; x dense: beside the dense model on the same device", style="dim"),
    )


def _choice(found: Plan, choice: Point) -> list[tuple[str, str]]:
    cost = choice.cost
    assert cost is not None and found.dense.perplexity is not None
    return [
        ("passes", str(found.passes)),
        ("tokens/s", f"{number(cost.tokens_per_second)} ({number(cost.speedup, 3)} times dense)"),
        ("perplexity", f"{number(choice.perplexity)} (dense {number(found.dense.perplexity)})"),
        ("hit rate", percent(cost.hit_rate)),
        ("flash per token", format_bytes(cost.flash_bytes_per_token)),
        ("bound by", cost.bound),
    ]


def _row(label: str, point: Point) -> list[str]:
    cost = point.cost
    speed, gain = (NONE, NONE) if cost is None else (number(cost.tokens_per_second), number(cost.speedup, 3))
    return [label, share(point.density_measured), share(point.gamma), number(point.perplexity), speed, gain]
