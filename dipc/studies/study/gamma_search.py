"""The search for gamma, together with the density: around the fastest target of a method, on both sides.

Less gamma misses fewer bytes and loses more, and so does less density; which pair is best at a perplexity can only be
seen with both. So a gamma between two that were listed is tried where the better of them is the best so far.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from dipc.studies.study.grid import Cell, Grid
from dipc.studies.study.method_grid import Variant
from dipc.studies.study.result import Point, Target

CLOSE = 1.6
"""Ratio of two neighbouring gammas between which none is tried."""


def gammas_between(grid: Grid, points: Sequence[Point], targets: Iterable[Target]) -> Iterator[Cell]:
    """Cells of the gammas next to the best one of each target, at the two densities that the target lies between.

    Args:
        grid: whose cells the points are of.
        points: that the targets rest on.
        targets: of which those with a gamma that a pipeline gives, or that are out of reach, ask for nothing.
    """
    by_id = {point.id: point for point in points}
    cell_of = {made.pipeline: cell for cell, made in grid.cells.items()}
    for target in targets:
        near = [by_id[name] for name in target.neighbours]
        if target.tokens_per_second is None or near[0].pipeline not in cell_of:
            continue
        variant = cell_of[near[0].pipeline].variant
        if variant.gamma is None:
            continue
        for gamma in next_gammas(_tried(grid, variant), variant.gamma):
            yield from (Cell(dataclasses.replace(variant, gamma=gamma), point.density) for point in near)


def next_gammas(tried: Collection[float], best: float) -> list[float]:
    """The geometric middles, to two digits, between the best gamma and its neighbours that are not close to it."""
    below = max((gamma for gamma in tried if gamma < best), default=best)
    above = min((gamma for gamma in tried if gamma > best), default=best)
    return [float(f"{math.sqrt(a * b):.2g}") for a, b in ((below, best), (best, above)) if b > CLOSE * a]


def _tried(grid: Grid, variant: Variant) -> set[float]:
    return {cell.variant.gamma for cell in grid.cells if cell.variant.alike == variant.alike and cell.variant.gamma}
