"""A study made up for the tests of charts and pages: its figures follow simple curves, not a model."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

GB = 10**9
LAYERS = 6
DENSE_PERPLEXITY = 34.81


def study_document(**changes: Any) -> dict[str, Any]:
    """What `dipc study --json` prints: three methods over density, DRAM, flash, gamma and policy."""
    points = [_dense(dram, flash) for dram, flash in product(_DRAM, _FLASH)]
    for dram, flash, density in product(_DRAM, _FLASH, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)):
        points += [_sparse("dip", density, None, policy, dram, flash) for policy in ("lfu", "lru", "belady")]
        points += [_sparse("dip-ca", density, gamma, "lfu", dram, flash) for gamma in (0.1, 0.2, 0.5)]
        points.append(_sparse("cats", density, None, "lfu", dram, flash))
    points.append(
        {**points[-1], "id": "failed", "method": "up", "reason": "ran out of memory", "failed": True} | _NO_COST
    )
    targets = [
        _target(method, increase, dram, flash, points)
        for method, increase, dram, flash in product(("dip", "dip-ca", "cats"), (0.5, 2.0), _DRAM, _FLASH)
    ]
    shown = [
        next(p for p in points if (p["method"], p["dram_bytes"], p["flash_bytes_per_s"]) == (m, 4 * GB, GB))
        for m in ("dense", "dip", "dip-ca")
    ]
    found = {
        "schema": 1,
        "kind": "study",
        "dipc": "0.1.0",
        "simulated": True,
        "model": {
            "name": "demo",
            "digest": "sha256:0f3a",
            "bytes": 11.1e6,
            "bits_per_weight": 16.0,
            "has_weights": True,
        },
        "text": {"name": "wiki.test.raw", "digest": "9c1b", "tokens": 16352, "seq_len": 512, "protocol": "all tokens"},
        "warmup": 512,
        "seed": 0,
        "scope": "all",
        "device": {
            "name": "a18",
            "file": "hwmodels/a18.yaml",
            "description": "Apple A18 (iPhone 16, 2024), as simulated by Federici et al. 2025",
            "assumptions": [
                {
                    "key": "dram.available",
                    "value": "4 GB",
                    "kind": "assumed",
                    "source": "what iOS leaves to an app varies",
                },
                {
                    "key": "dram.bandwidth",
                    "value": "60 GB/s",
                    "kind": "paper",
                    "source": "Federici et al. 2025, sec. 6.1",
                },
                {
                    "key": "flash.bandwidth",
                    "value": "1 GB/s",
                    "kind": "measured",
                    "source": "see https://example.org/a?b=1&c=2.",
                },
                {"key": "overlap", "value": "yes", "kind": "datasheet", "source": "an invented datasheet"},
            ],
        },
        "settings": {
            "context": 512,
            "reads": {"bundling": "unit", "layout": "file", "over_read": "0 B", "align": None},
        },
        "dense_perplexity": DENSE_PERPLEXITY,
        "points": points,
        "targets": targets,
        "timelines": [_timeline(point) for point in shown],
        "findings": ["dip-ca is faster than dip with belady at equal perplexity.", "The best gamma is 0.2."],
    }
    return {**found, **changes}


def without_weights() -> dict[str, Any]:
    """The same for a model known by its config: no perplexity, no targets, activity that is made up."""
    whole = study_document(text=None, targets=[], timelines=[], findings=[], dense_perplexity=None)
    made_up = {"perplexity": None, "kl": None, "source": "synthetic: fitted on the demo", "seed": 0}
    points = [{**p, **made_up} if p["method"] != "dense" else {**p, "perplexity": None} for p in whole["points"]]
    return {**whole, "model": {**whole["model"], "name": "phi-3-medium", "has_weights": False}, "points": points}


_DRAM = (2 * GB, 4 * GB, 6 * GB)
_FLASH = (0.5 * GB, 1.0 * GB, 2.0 * GB)
_MODEL, _RESIDENT = 7.0 * GB, 1.0 * GB
_NO_COST: dict[str, Any] = {
    **dict.fromkeys(("tokens_per_second", "ms_per_token", "flash_bytes_per_token", "dram_bytes_per_token")),
    **dict.fromkeys(("hit_rate", "missed_share", "bound", "energy_j_per_token", "speedup")),
    **dict.fromkeys(("perplexity", "kl", "density_measured")),
    "layers": [],
}


def _dense(dram: int, flash: float) -> dict[str, Any]:
    rate = min((dram - _RESIDENT) / (_MODEL - _RESIDENT), 1)
    return _point("dense", 1.0, None, "lfu", dram, flash, DENSE_PERPLEXITY, rate)


def _sparse(method: str, density: float, gamma: float | None, policy: str, dram: int, flash: float) -> dict[str, Any]:
    lost = (
        {"dip": 8.0, "dip-ca": 9.5, "cats": 11.0}[method]
        * (1 - density) ** 2.5
        * (1 + 0.2 * (0.5 - (gamma or 0.5)) / 0.4)
    )
    room = (dram - _RESIDENT) / (_MODEL - _RESIDENT)
    gain = {"lfu": 1.0, "lru": 0.96, "belady": 1.08}[policy] * (1.0 if gamma is None else 1.45 - gamma * 0.7)
    rate = min(room**0.8 * gain, 0.97)
    return _point(method, density, gamma, policy, dram, flash, DENSE_PERPLEXITY + lost * 6, rate)


def _point(
    method: str,
    density: float,
    gamma: float | None,
    policy: str,
    dram: int,
    flash: float,
    perplexity: float,
    rate: float,
) -> dict[str, Any]:
    options = f"density={density:g}" + (f" gamma={gamma:g}" if gamma else "")
    read = (_MODEL - _RESIDENT) * density
    missed, hit = read * (1 - rate), read * rate
    seconds = max(missed / flash, (hit + _RESIDENT) / 60e9)
    whole = _MODEL - _RESIDENT
    dense_s = max(whole - dram + _RESIDENT, 1.0) / flash
    layers = []
    for layer in range(LAYERS):
        own = min(rate * (1 + 0.15 * math.sin(layer)), 1.0) if method != "dense" else rate
        per_layer = read / LAYERS
        layers.append(
            {
                "layer": layer,
                "hit_rate": own,
                "flash_bytes_per_token": per_layer * (1 - own),
                "dram_bytes_per_token": per_layer * own,
            }
        )
    return {
        "id": f"{method}-{density:g}-{gamma}-{policy}-{dram}-{flash:g}",
        "method": method,
        "pipeline": "" if method == "dense" else f"{method}{{{options}}}",
        "density": density,
        "gamma": gamma,
        "policy": policy,
        "dram_bytes": dram,
        "flash_bytes_per_s": flash,
        "perplexity": perplexity,
        "kl": None if method == "dense" else (perplexity - DENSE_PERPLEXITY) / 40,
        "density_measured": density,
        "tokens_per_second": 1 / seconds,
        "ms_per_token": 1000 * seconds,
        "flash_bytes_per_token": missed,
        "dram_bytes_per_token": hit + _RESIDENT,
        "hit_rate": rate,
        "missed_share": missed / whole,
        "bound": "flash",
        "energy_j_per_token": 0.5 * seconds,
        "speedup": dense_s / seconds,
        "source": "recorded on wiki.test.raw",
        "seed": None,
        "reason": None,
        "failed": False,
        "layers": layers,
    }


def _target(method: str, increase: float, dram: int, flash: float, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The last point within the limit, as if a line to the next one had been cut there."""
    own = [
        p
        for p in points
        if (p["method"], p["dram_bytes"], p["flash_bytes_per_s"]) == (method, dram, flash) and p["policy"] == "lfu"
    ]
    own = sorted((p for p in own if p["gamma"] in (None, 0.2)), key=lambda p: -p["density"])
    within = [p for p in own if p["perplexity"] <= DENSE_PERPLEXITY + increase]
    target = {
        "method": method,
        "max_ppl_increase": increase,
        "dram_bytes": dram,
        "flash_bytes_per_s": flash,
        "policy": "lfu",
    }
    if not within or (method, increase) == ("cats", 0.5):
        return {**target, "reason": "no density that was tried is within it"}
    best, beyond = within[-1], own[len(within)]
    return {
        **target,
        "gamma": best["gamma"],
        "tokens_per_second": (best["tokens_per_second"] + beyond["tokens_per_second"]) / 2,
        "perplexity": DENSE_PERPLEXITY + increase,
        "density": (best["density"] + beyond["density"]) / 2,
        "speedup": (best["speedup"] + beyond["speedup"]) / 2,
        "interpolated": True,
        "neighbours": [best["id"], beyond["id"]],
    }


def _timeline(point: dict[str, Any]) -> dict[str, Any]:
    resident_s = _RESIDENT / 60e9
    events = [_event("resident weights and KV cache", None, "dram", 0.0, resident_s, _RESIDENT)]
    ends = {"flash": 0.0, "dram": resident_s}
    for layer, (site, share) in product(point["layers"], (("input", 2 / 3), ("glu", 1 / 3))):
        for track, speed in (("flash", point["flash_bytes_per_s"]), ("dram", 60e9)):
            size = share * layer[f"{track}_bytes_per_token"]
            if size:
                events.append(
                    _event(f"layers.{layer['layer']}.{site}", layer["layer"], track, ends[track], size / speed, size)
                )
                ends[track] += size / speed
    return {"point": point["id"], "token": 100, "latency_s": max(ends.values()), "events": events}


def _event(name: str, layer: int | None, track: str, start_s: float, duration_s: float, size: float) -> dict[str, Any]:
    return {"name": name, "layer": layer, "track": track, "start_s": start_s, "duration_s": duration_s, "bytes": size}
