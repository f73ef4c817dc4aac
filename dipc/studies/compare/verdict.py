"""What the figures show, in sentences: the paper's orders, and whether this model has them too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dipc.quantities import number, percent
from dipc.studies.compare.result import SLACK, Comparison, Figures

PAPER = "the paper (models of 4 to 14 B parameters) has it the other way"
_EQUAL = 1e-3
"""Perplexities that differ by a smaller share count as equal."""
_LORA = " + LoRA"
_SPLIT = "dip, split"
_WORTH_SAYING = 0.01
"""Overhead below this share of the MLPs' bytes is left to the table."""

Pair = tuple[float, Figures, Figures]


def verdict(found: Comparison) -> Iterator[str]:
    """A sentence per claim that the rows allow."""
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


def _oracle(found: Comparison) -> Iterator[str]:
    """Whether perfect knowledge of the GLU is the best, as in the paper's tables."""
    held: list[str] = []
    missed: list[str] = []
    for row in found.rows:
        if row.kind != "oracle" or row.figures is None:
            continue
        rivals = [r for r in found.block(row.density) if r.kind in ("method", "static") and r.figures is not None]
        best = min(rivals, key=lambda r: r.figures.perplexity, default=None)  # type: ignore[union-attr]
        if best is None or best.figures is None:
            continue
        place = f"{row.density:g} ({_both(row.figures, best.figures)}, {best.label})"
        (held if row.figures.perplexity < best.figures.perplexity else missed).append(place)
    if held:
        yield f"The GLU oracle is better than every method without LoRA at {_listed(held)}."
    if missed:
        yield f"The GLU oracle is not the best at {_listed(missed)}; {PAPER}."


def _order(found: Comparison, left: str, right: str) -> Iterator[str]:
    """Whether one row is better than another, as in the paper."""
    held: list[str] = []
    missed: list[str] = []
    for density, a, b in _pairs(found, left, right):
        (held if a.perplexity < b.perplexity else missed).append(f"{density:g} ({_both(a, b)})")
    if held:
        yield f"{left} is better than {right} at {_listed(held)}."
    if missed:
        yield f"{left} is not better than {right} at {_listed(missed)}; {PAPER}."


def _standing(found: Comparison, left: str, right: str) -> Iterator[str]:
    """Where one row is better than another, where about equal and where worse."""
    places: dict[str, list[str]] = {
        "better than": [],
        f"within {_EQUAL:.1%} of".replace("%", " %"): [],
        "worse than": [],
    }
    better, equal, worse = places.values()
    for density, a, b in _pairs(found, left, right):
        share = a.perplexity / b.perplexity - 1
        (better if share < -_EQUAL else equal if share <= _EQUAL else worse).append(f"{density:g} ({_both(a, b)})")
    for standing, where in places.items():
        if where:
            yield f"{left} is {standing} {right} at {_listed(where)}."


def _recovery(found: Comparison, label: str) -> Iterator[str]:
    """How much of the lost perplexity training gave back."""
    base = label.removesuffix(_LORA)
    dense = found.dense.figures
    shares = []
    for density, trained, plain in _pairs(found, label, base):
        lost = plain.perplexity - dense.perplexity if dense is not None else 0.0
        if lost > _EQUAL * plain.perplexity:
            share = percent((plain.perplexity - trained.perplexity) / lost)
            shares.append(f"{share} at {density:g} ({_both(trained, plain)})")
    if shares:
        yield f"LoRA recovers, of the perplexity that {base} lost, {_listed(shares)}."


def _overheads(found: Comparison, labels: Sequence[str]) -> Iterator[str]:
    """What the densities do not count: the paper leaves it out of its tables."""
    dense = found.dense.figures
    if dense is None:
        return
    parts = []
    for label in labels:
        rows = [row.figures for row in found.rows if row.label == label and row.figures is not None]
        most = max(rows, key=lambda figures: figures.overhead_bytes, default=None)
        if most is not None and most.overhead_bytes > _WORTH_SAYING * dense.mlp_bytes:
            more = ", by which it reads more than the dense model" if most.bytes_read > dense.bytes_read else ""
            parts.append(f"{label} {percent(most.overhead_bytes / dense.mlp_bytes)}{more}")
    if parts:
        yield f"Overhead, in shares of the dense MLPs' bytes, counted here but by no density: {_listed(parts)}."


def _pairs(found: Comparison, left: str, right: str) -> Iterator[Pair]:
    """The densities at which two rows have figures."""
    for density in found.densities:
        rows = {row.label: row.figures for row in found.block(density)}
        a, b = rows.get(left), rows.get(right)
        if density is not None and a is not None and b is not None:
            yield density, a, b


def _both(a: Figures, b: Figures) -> str:
    """Two perplexities, with the densities where they are not the same."""
    text = f"{number(a.perplexity)} beside {number(b.perplexity)}"
    if abs(a.density - b.density) > SLACK:
        text += f", at densities {a.density:.3g} and {b.density:.3g}"
    return text


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
