"""A simulated price on a device, dense beside sparse, with everything it was simulated with."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.files import write_whole
from dipc.ir.site import SiteId
from dipc.memory.timeline import perfetto, timeline
from dipc.quantities import NONE, format_bytes, number, percent, share
from dipc.report.score import score_dict
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from pathlib import Path

    from dipc.evaluation.estimate import Estimate
    from dipc.memory.pricing import Price


def estimate_dict(estimate: Estimate, device_file: str | None = None) -> JsonObject:
    """All figures and all that they depend on; `device_file` is where the device comes from."""
    device, sparse = estimate.device, estimate.sparse
    return document(
        "estimate",
        simulated=True,
        model={"name": estimate.model, "bytes": estimate.model_bytes},
        method=estimate.method,
        device={
            "name": device.name,
            "file": device_file,
            "description": device.description,
            "dram_available_bytes": device.dram_available,
            "overlap": device.overlap,
            "assumptions": [a._asdict() for a in device.assumptions()],
        },
        policy=estimate.policy,
        context=estimate.context,
        bits_per_weight=estimate.bits_per_weight,
        source=estimate.source,
        seed=estimate.seed,
        dense=price_dict(estimate.dense),
        sparse=None if sparse is None else price_dict(sparse),
        speedup=estimate.speedup,
        score=None if estimate.score is None else score_dict(estimate.score),
        reads=asdict(estimate.reads),
        usual=None if estimate.baseline is None else price_dict(estimate.baseline),
    )


def price_dict(price: Price) -> JsonObject:
    """One program's price: means over the counted tokens, the DRAM's use, and the hits of every site."""
    use = price.allocation
    return {
        "tokens_per_second": price.throughput,
        "ms_per_token": 1000 / price.throughput,
        "flash_bytes_per_token": price.flash_bytes_per_token,
        "dram_bytes_per_token": price.dram_bytes_per_token,
        "hit_rate": price.hit_rate,
        "bound": price.bound,
        "reads": price.reads,
        "flash_reads_per_token": price.reads_per_token,
        "read_amplification": price.read_amplification,
        "energy_j_per_token": price.energy_j_per_token,
        "popularity": price.popularity or None,
        "overlap": price.overlap,
        "tokens": price.tokens,
        "warmup": price.warmup,
        "dram": {
            "resident_bytes": use.resident_bytes,
            "kv_bytes": use.kv_bytes,
            "cache_bytes": use.cached_bytes,
            "left_over_bytes": use.left_over_bytes,
        },
        "sites": {
            name: {
                "hit_rate": site.hit_rate,
                "unit_bytes": site.unit_bytes,
                "capacity": use.capacities[name],
                "flash_bytes_per_token": float(site.flash_bytes_T.mean()),
                "flash_ms_per_token": 1000 * float(site.flash_s_T.mean()),
            }
            for name, site in price.sites.items()
        },
        "trace": price.trace_meta,
    }


def write_timeline(estimate: Estimate, path: Path) -> None:
    """The last token's reads, dense and sparse, as a trace for ui.perfetto.dev. UsageError if it cannot be written."""
    prices = [("dense", estimate.dense), *([(estimate.method.name, estimate.sparse)] if estimate.sparse else [])]
    found = perfetto((name, timeline(price, price.tokens - 1)) for name, price in prices)
    write_whole(path, lambda part: part.write_text(json.dumps(found), encoding="utf-8"))


def estimate_tables(estimate: Estimate, device_file: str | None = None) -> list[RenderableType]:
    """The price, the DRAM's use, the hit rates, then the assumptions and the provenance."""
    prices = [price for price in (estimate.dense, estimate.sparse, estimate.baseline) if price]
    names = ("dense", estimate.method.name, "usual reads")
    columns = ("", *(f">{name}" for name in names[: len(prices)]))
    title = f"simulated on {estimate.device.name}: {estimate.model}, {format_bytes(estimate.model_bytes)}"
    device = estimate.device.assumptions()
    return stack(
        table(title, columns, _price_rows(estimate, prices)),
        table("where the DRAM goes", columns, _dram_rows(prices)),
        table("hit rate by kind of site", ("site", *columns[1:]), _hit_rows(prices)),
        table("the device, as assumed", ("figure", "value", "kind", "source"), [tuple(a) for a in device]),
        facts("simulated with", _provenance(estimate, estimate.sparse or estimate.dense, device_file)),
    )


def _price_rows(estimate: Estimate, prices: list[Price]) -> list[list[str]]:
    rows = [
        ["tokens per second", *(number(p.throughput) for p in prices)],
        ["ms per token", *(number(1000 / p.throughput) for p in prices)],
        ["flash read per token", *(format_bytes(p.flash_bytes_per_token) for p in prices)],
        ["DRAM read per token", *(format_bytes(p.dram_bytes_per_token) for p in prices)],
        ["reads from flash per token", *(number(p.reads_per_token) for p in prices)],
        ["read of what is needed", *(f"{number(p.read_amplification, 3)}x" for p in prices)],
        ["hit rate of the weight cache", *(percent(p.hit_rate) for p in prices)],
        ["bound by", *({"flash": "flash", "dram": "DRAM"}[p.bound] for p in prices)],
    ]
    score = estimate.score
    if estimate.dense.energy_j_per_token is not None:
        rows.append(
            ["energy of reading a token", *(f"{number(1000 * (p.energy_j_per_token or 0))} mJ" for p in prices)]
        )
    if estimate.sparse is not None:
        ratios = [price.throughput / estimate.dense.throughput for price in prices[1:]]
        rows.append(["speed-up", "1", *(number(ratio, 3) for ratio in ratios)])
    if score is not None:
        rows.append(["perplexity", number(score.dense_perplexity), number(score.perplexity)])
        rows.append(["density of the MLPs, measured", "1", share(score.density)])
    return rows


def _dram_rows(prices: list[Price]) -> list[list[str]]:
    parts = (
        ("resident weights", "resident_bytes"),
        ("KV cache", "kv_bytes"),
        ("weight cache", "cached_bytes"),
        ("left over", "left_over_bytes"),
    )
    return [[label, *(format_bytes(getattr(p.allocation, name)) for p in prices)] for label, name in parts]


def _hit_rows(prices: list[Price]) -> list[list[str]]:
    """Sites of the same last name are of a kind: layers.0.glu, layers.1.glu, ..."""
    rates: list[dict[str, str]] = []
    for price in prices:
        counts: dict[str, list[int]] = {}
        for name, site in price.sites.items():
            count = counts.setdefault(SiteId.parse(name).place, [0, 0])
            count[0] += site.hits
            count[1] += site.accesses
        rates.append({kind: percent(h / a if a else 0.0) for kind, (h, a) in counts.items()})
    kinds = list(dict.fromkeys(kind for rate in rates for kind in rate))
    return [[kind, *(rate.get(kind, NONE) for rate in rates)] for kind in kinds]


def _provenance(estimate: Estimate, price: Price, device_file: str | None) -> list[tuple[str, str]]:
    method = estimate.method
    rows = [
        ("method", method.options or method.name),
        ("density", share(method.density)),
        ("scope", method.scope),
        ("policy", estimate.policy + (f", popularity {price.popularity}" if price.popularity else "")),
        ("flash reads", price.reads),
        ("flash and DRAM", "at the same time" if price.overlap else "one after the other"),
        ("device file", device_file or NONE),
        ("context", f"{estimate.context:,} positions of KV cache"),
        ("bits per weight", f"{estimate.bits_per_weight:g}"),
        ("activity", estimate.source),
    ]
    if estimate.sparse is not None:
        rows.append(("tokens", f"{price.tokens:,} counted after {price.warmup:,} that fill the cache"))
    return rows if estimate.seed is None else [*rows, ("seed", str(estimate.seed))]
