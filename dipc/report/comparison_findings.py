"""The findings of a comparison in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from dipc.quantities import number, percent
from dipc.studies.compare.findings import EQUAL, OracleOrder, Overheads, OwnOrder, PaperOrder, Recovery, Standing
from dipc.studies.compare.result import SLACK, Beside, Comparison
from dipc.studies.engine.finding import Finding

PAPER = "the paper (models of 4 to 14 B parameters) has it the other way"
_STANDINGS: dict[Standing, str] = {
    "better": "better than",
    "equal": f"within {EQUAL:.1%} of".replace("%", " %"),
    "worse": "worse than",
}


def comparison_sentences(found: Comparison) -> list[str]:
    """Return a sentence per finding."""
    return [_sentence(finding) for finding in found.findings]


def _sentence(finding: Finding) -> str:
    match finding:
        case OracleOrder(holds, places):
            where = _listed([f"{p.density:g} ({_both(p)}, {best})" for p, best in places])
            if holds:
                return f"The GLU oracle is better than every method without LoRA at {where}."
            return f"The GLU oracle is not the best at {where}; {PAPER}."
        case PaperOrder(left, right, True, places):
            return f"{left} is better than {right} at {_where(places)}."
        case PaperOrder(left, right, _, places):
            return f"{left} is not better than {right} at {_where(places)}; {PAPER}."
        case OwnOrder(left, right, standing, places):
            return f"{left} is {_STANDINGS[standing]} {right} at {_where(places)}."
        case Recovery(method, places):
            shares = [f"{percent(share)} at {place.density:g} ({_both(place)})" for place, share in places]
            return f"LoRA recovers, of the perplexity that {method} lost, {_listed(shares)}."
        case Overheads(rows):
            parts = [
                f"{row.label} {percent(row.share)}"
                + (", by which it reads more than the dense model" if row.exceeds_dense else "")
                for row in rows
            ]
            return f"Overhead, in shares of the dense MLPs' bytes, counted here but by no density: {_listed(parts)}."
    raise TypeError(f"no sentence for {type(finding).__name__}")


def _where(places: Sequence[Beside]) -> str:
    return _listed([f"{place.density:g} ({_both(place)})" for place in places])


def _both(place: Beside) -> str:
    """Return two perplexities, with the densities where they are not the same."""
    a, b = place.left, place.right
    text = f"{number(a.perplexity)} beside {number(b.perplexity)}"
    if abs(a.density - b.density) > SLACK:
        text += f", at densities {a.density:.3g} and {b.density:.3g}"
    return text


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
