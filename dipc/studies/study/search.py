"""The search for the next density to measure, to find the lowest one whose perplexity is within a limit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

EXACT = 1.0
"""At this density every method is the dense model."""


def next_density(measured: Mapping[float, float], tried: Collection[float], limit: float, step: float) -> float | None:
    """The middle, on a grid, of the two densities between which perplexity passes the limit.

    Only what lies between densities that were asked for is searched, and above them: below the lowest nobody asked.

    Args:
        measured: perplexity by density.
        tried: all densities that were measured or could not be.
        limit: the greatest perplexity that is allowed.
        step: of the grid.

    Returns:
        None where the two are a step apart, or the perplexity passes the limit nowhere.
    """
    inner, outer = bracket(measured, limit)
    if outer is None or inner - outer <= step * 1.001:
        return None
    middle = round(round((inner + outer) / 2 / step) * step, 9)
    return middle if outer < middle < inner and middle not in tried else None


def bracket(measured: Mapping[float, float], limit: float) -> tuple[float, float | None]:
    """The lowest density within the limit, and the highest below it that is not, if there is one."""
    inner = min((d for d, perplexity in measured.items() if perplexity <= limit), default=EXACT)
    return inner, max((d for d in measured if d < inner), default=None)
