"""A trace: where it comes from and what its sites do; and a model of activity, by kind of site and depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.memory.synthetic.normal import GRID_G
from dipc.memory.synthetic.statistics import LAGS, SHARES, site_statistics
from dipc.quantities import NONE, number, percent, share
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.memory.synthetic.activity import ActivityModel, SiteActivity
    from dipc.memory.trace import Trace


def trace_dict(trace: Trace) -> JsonObject:
    """Its metadata and the statistics of every site."""
    sites = {}
    for name in trace.sites:
        found = site_statistics(trace, name)
        sites[name] = {
            "units": found.units,
            "density": found.density,
            "popularity": dict(zip(map(str, SHARES), found.popularity, strict=True)),
            "correlation": dict(zip(map(str, LAGS), found.correlation, strict=True)),
        }
    return document("trace", tokens=trace.tokens, meta=trace.meta, sites=sites)


def trace_tables(trace: Trace, more: Mapping[str, str] | None = None) -> list[RenderableType]:
    """The same for a terminal, with further names and values."""
    found = trace_dict(trace)
    meta = {key: value for key, value in trace.meta.items() if key != "capacities"}  # one for each site: in the JSON
    rows = [("tokens", number(trace.tokens)), *((key, _text(value)) for key, value in meta.items())]
    sites = [
        (
            name,
            number(site["units"]),
            share(site["density"]),
            *(share(p) for p in site["popularity"].values()),
            *(_signed(c) for c in site["correlation"].values()),
        )
        for name, site in found["sites"].items()
    ]
    columns = ("", ">units", ">density", ">1 %", ">median", ">99 %", ">after 1", ">8", ">64")
    title = "share of tokens that touch a unit, over units; how its mask is correlated some tokens later"
    return stack(facts("trace", [*rows, *(more or {}).items()]), table(title, columns, sites))


def activity_dict(activity: ActivityModel) -> JsonObject:
    """The file's content, and its digest."""
    data = activity.model_dump(mode="json", by_alias=True, exclude={"schema_version", "kind", "fitted"})
    return document("activity", digest=activity.digest, fitted=activity.fitted.model_dump(), **data)


def activity_tables(activity: ActivityModel, more: Mapping[str, str] | None = None) -> list[RenderableType]:
    """Show what it was fitted on, and its sites by kind and depth."""
    made = activity.fitted
    rows = [
        ("model", f"{made.model} (digest {made.digest})"),
        ("text", f"{made.text} (digest {made.text_digest})"),
        ("tokens", f"{made.tokens:,} in windows of {made.seq_len}"),
        ("digest", activity.digest),
        *(more or {}).items(),
    ]
    sites = [_activity_row(kind, s) for kind in ("input", "glu") for s in getattr(activity, kind)]
    columns = ("", ">depth", ">popular", ">unpopular", ">noise", ">lasting part", ">half after")
    title = "units' mean magnitude at 97.7 % and 2.3 % of them, beside the median's; the noise's spread; its memory"
    return stack(facts("model of activity", rows), table(title, columns, sites))


def _activity_row(kind: str, site: SiteActivity) -> tuple[str, ...]:
    low, middle, high = (int(abs(GRID_G - z).argmin()) for z in (-2, 0, 2))
    above, below = (math.exp(site.popularity[i] - site.popularity[middle]) for i in (high, low))
    factor = math.exp((site.noise[high] - site.noise[low]) / 4)
    half = math.log(0.5) / math.log(site.persistence) if site.persistence else 0.0
    return (
        kind,
        share(site.depth),
        f"x {number(above, 3)}",
        f"x {number(below, 3)}",
        f"x {number(factor, 3)}",
        percent(site.persistent),
        f"{number(half, 2)} tokens",
    )


def _text(value: str | int | float) -> str:
    return (value or NONE) if isinstance(value, str) else number(value)


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
