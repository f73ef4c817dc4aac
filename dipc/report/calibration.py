"""A calibration: what was measured on how much text, MLP by MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from dipc.calibration.tensors import SCORES
from dipc.documents import JsonObject, document
from dipc.quantities import NONE, number, percent, share
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.calibration.file import Calibration

FEW_TOKENS = 50_000
_DENSITIES = (0.6, 0.5, 0.4)


def calibration_dict(calibration: Calibration) -> JsonObject:
    """Give what it was measured on, and the figures of each MLP; the tensors themselves are in the file."""
    allocation = calibration.allocation
    return document(
        "calibration",
        **calibration.meta,
        parts=calibration.parts,
        mlps={mlp: _figures(calibration, mlp) for mlp in calibration.mlps},
        allocation=None
        if allocation is None
        else {"intercept": allocation.intercept, "slope": allocation.slope, "split": _splits(calibration)},
        note=_note(calibration) or None,
    )


def calibration_tables(calibration: Calibration, more: Mapping[str, str] | None = None) -> list[RenderableType]:
    """Show what it was measured on, with further names and values; then tables of its parts."""
    meta = calibration.meta
    rows = [
        ("model", f"{meta['model']} (digest {meta['digest']})"),
        ("text", f"{meta.get('text', NONE)} (digest {meta.get('text_digest', NONE)})"),
        ("tokens", f"{meta.get('tokens', 0):,} in windows of {meta.get('seq_len', NONE)}"),
        ("seed", str(meta.get("seed", NONE))),
        ("parts", ", ".join(calibration.parts) or NONE),
        *(more or {}).items(),
    ]
    note = _note(calibration)
    return stack(
        facts("calibration", rows),
        _magnitudes(calibration),
        _predictors(calibration),
        _allocation(calibration),
        Text(note) if note else None,
    )


def _figures(calibration: Calibration, mlp: str) -> JsonObject:
    found: JsonObject = {}
    if "thresholds" in calibration.parts:
        for score in SCORES:
            mean, square, most = calibration.tensors[f"statistics.{mlp}.{score}"].tolist()
            found[score] = {
                "mean": mean,
                "mean_square": square,
                "maximum": most,
                "threshold_at_density_0.5": calibration.threshold(mlp, score, 0.5),
                "quantile_0.99": calibration.threshold(mlp, score, 0.01),
            }
    if (recall := calibration.tensors.get(f"recall.{mlp}")) is not None:
        found["predictor"] = {
            "hidden": calibration.sizes[mlp, "H"],
            "recall_of_largest_10_percent": float(recall[0]),
            "recall_of_largest_50_percent": float(recall[1]),
        }
    return found


def _magnitudes(calibration: Calibration) -> RenderableType | None:
    if "thresholds" not in calibration.parts:
        return None
    rows = [
        (mlp, *(number(calibration.threshold(mlp, score, d), 3) for score in SCORES for d in (0.5, 0.01)))
        for mlp in calibration.mlps
    ]
    title = "magnitudes: the median, which is the threshold at density 0.5, and the 99 % quantile"
    return table(title, ("", *(c for score in SCORES for c in (f">{score}", ">99 %"))), rows)


def _predictors(calibration: Calibration) -> RenderableType | None:
    if "predictors" not in calibration.parts:
        return None
    rows = []
    for mlp in calibration.mlps:
        recall = calibration.tensors.get(f"recall.{mlp}")
        shares = (None, None) if recall is None else recall.tolist()
        rows.append((mlp, number(calibration.sizes.get((mlp, "H"))), *map(percent, shares)))
    title = "predictors: share of a token's largest GLU units that they name, on held-out windows"
    return table(title, ("", ">hidden width", ">of 10 %", ">of 50 %"), rows)


def _allocation(calibration: Calibration) -> RenderableType | None:
    if calibration.allocation is None:
        return None
    rows = [(share(s["density"]), share(s["rho_in"]), share(s["rho_glu"])) for s in _splits(calibration)]
    return table("density allocation, one pair for all MLPs", (">density", ">rho_in", ">rho_glu"), rows)


def _splits(calibration: Calibration) -> list[dict[str, float]]:
    allocation = calibration.allocation
    if allocation is None:
        return []
    pairs = [(d, *allocation.split(d)) for d in _DENSITIES]
    return [{"density": d, "rho_in": rho_in, "rho_glu": rho_glu} for d, rho_in, rho_glu in pairs]


def _note(calibration: Calibration) -> str:
    """Say what the reader should know about how far to trust it."""
    tokens = calibration.meta.get("tokens", 0)
    if "predictors" not in calibration.parts or not isinstance(tokens, int) or tokens >= FEW_TOKENS:
        return ""
    return f"{tokens:,} tokens are few for predictors: give --text FILE with {FEW_TOKENS:,} or more"
