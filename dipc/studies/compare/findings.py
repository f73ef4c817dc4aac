"""Findings of a comparison: the paper's orders, and whether this model has them too.

A finding is data; `dipc.report.comparison_findings` words it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dipc.studies.compare.result import Beside, Comparison, Figures
from dipc.studies.engine.finding import Finding

EQUAL = 1e-3
"""Perplexities that differ by a smaller share count as equal."""
_LORA = " + LoRA"
_SPLIT = "dip, split"
_WORTH_SAYING = 0.01
"""Overhead below this share of the MLPs' bytes is left to the table."""

Standing = Literal["better", "equal", "worse"]


@dataclass(frozen=True)
class OracleOrder(Finding):
    """Perfect knowledge of the GLU beside the best row without LoRA, whose label each place names.

    Attributes:
        holds: whether the oracle is better, as in the paper, at these places.
    """

    holds: bool
    places: tuple[tuple[Beside, str], ...]


@dataclass(frozen=True)
class PaperOrder(Finding):
    """A row that is better than another in the paper; `holds` says whether it is here, at these places."""

    left: str
    right: str
    holds: bool
    places: tuple[Beside, ...]


@dataclass(frozen=True)
class OwnOrder(Finding):
    """The standing of a row beside another, of which the paper says nothing."""

    left: str
    right: str
    standing: Standing
    places: tuple[Beside, ...]


@dataclass(frozen=True)
class Recovery(Finding):
    """The share of the lost perplexity that training gave back to a method."""

    method: str
    places: tuple[tuple[Beside, float], ...]


@dataclass(frozen=True)
class OverheadShare:
    """A row's greatest overhead, in shares of the dense MLPs' bytes."""

    label: str
    share: float
    exceeds_dense: bool


@dataclass(frozen=True)
class Overheads(Finding):
    """Bytes that the densities do not count: the paper leaves it out of its tables."""

    rows: tuple[OverheadShare, ...]


def findings(found: Comparison) -> Iterator[Finding]:
    """Yield a finding per claim that the rows allow."""
    labels = list(dict.fromkeys(row.label for row in found.rows))
    yield from _oracle(found)
    # The paper's DIP is the one whose densities were shared out by Appendix B.1.
    shared_out = any(row.label == _SPLIT and row.figures is not None for row in found.rows)
    for other in ("cats", "gate", "up", "predictor", "sparsegpt"):
        yield from _order(found, _SPLIT if shared_out else "dip", other)
    for label in labels:
        if label.endswith(_LORA):
            yield from _recovery(found, label)
    for label in ("wina", "sensitivity", _SPLIT, "dip, by layer"):
        yield from _standing(found, label, "dip")
    yield from _overheads(found, labels)


def _oracle(found: Comparison) -> Iterator[Finding]:
    """Yield whether perfect knowledge of the GLU is the best, as in the paper's tables."""
    places: dict[bool, list[tuple[Beside, str]]] = {True: [], False: []}
    for row in found.rows:
        if row.kind != "oracle" or row.figures is None or row.density is None:
            continue
        rivals = [r for r in found.block(row.density) if r.kind in ("method", "static") and r.figures is not None]
        best = min(rivals, key=lambda r: r.figures.perplexity, default=None)  # type: ignore[union-attr]
        if best is None or best.figures is None or _both_infinite(row.figures, best.figures):
            continue
        place = Beside(row.density, row.figures, best.figures)
        places[row.figures.perplexity < best.figures.perplexity].append((place, best.label))
    yield from (OracleOrder(holds, tuple(where)) for holds, where in places.items() if where)


def _order(found: Comparison, left: str, right: str) -> Iterator[Finding]:
    """Yield whether one row is better than another, as in the paper."""
    places: dict[bool, list[Beside]] = {True: [], False: []}
    for place in _places(found, left, right):
        places[place.left.perplexity < place.right.perplexity].append(place)
    yield from (PaperOrder(left, right, holds, tuple(where)) for holds, where in places.items() if where)


def _standing(found: Comparison, left: str, right: str) -> Iterator[Finding]:
    """Yield where one row is better than another, where about equal and where worse."""
    places: dict[Standing, list[Beside]] = {"better": [], "equal": [], "worse": []}
    for place in _places(found, left, right):
        share = place.left.perplexity / place.right.perplexity - 1
        places["better" if share < -EQUAL else "equal" if share <= EQUAL else "worse"].append(place)
    yield from (OwnOrder(left, right, standing, tuple(where)) for standing, where in places.items() if where)


def _recovery(found: Comparison, label: str) -> Iterator[Finding]:
    """Yield how much of the lost perplexity training gave back."""
    base, dense = label.removesuffix(_LORA), found.dense.figures
    shares = []
    for place in _places(found, label, base):
        plain = place.right.perplexity
        lost = plain - dense.perplexity if dense is not None else 0.0
        if lost > EQUAL * plain:
            shares.append((place, (plain - place.left.perplexity) / lost))
    if shares:
        yield Recovery(base, tuple(shares))


def _overheads(found: Comparison, labels: Sequence[str]) -> Iterator[Finding]:
    """Yield what the densities do not count."""
    dense = found.dense.figures
    if dense is None:
        return
    rows = []
    for label in labels:
        own: list[Figures] = [r.figures for r in found.rows if r.label == label and r.figures is not None]
        most = max(own, key=lambda figures: figures.overhead_bytes, default=None)
        if most is not None and most.overhead_bytes > _WORTH_SAYING * dense.mlp_bytes:
            exceeds = most.bytes_read > dense.bytes_read
            rows.append(OverheadShare(label, most.overhead_bytes / dense.mlp_bytes, exceeds))
    if rows:
        yield Overheads(tuple(rows))


def _places(found: Comparison, left: str, right: str) -> Iterator[Beside]:
    """Yield the densities at which two rows have figures that can be told apart."""
    for density in found.densities:
        rows = {row.label: row.figures for row in found.block(density)}
        a, b = rows.get(left), rows.get(right)
        if density is not None and a is not None and b is not None and not _both_infinite(a, b):
            yield Beside(density, a, b)


def _both_infinite(a: Figures, b: Figures) -> bool:
    return math.isinf(a.perplexity) and math.isinf(b.perplexity)
