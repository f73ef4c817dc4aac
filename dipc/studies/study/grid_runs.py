"""The runs of a study's grid: those of all cells, then those that the search for the limits asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dipc.errors import UsageError
from dipc.studies.engine.scheduler import RunScheduler
from dipc.studies.study.gamma_search import gammas_between
from dipc.studies.study.grid import Cell, Grid
from dipc.studies.study.measure import DENSE_RUN, Measured, StudyRun
from dipc.studies.study.result import Point
from dipc.studies.study.spec import StudySpec
from dipc.studies.study.targets import targets

Pricing = Callable[[], Sequence[Point]]


def add_listed(grid: Grid, spec: StudySpec) -> None:
    """Add the cells of the densities that were listed."""
    for variant in spec.variants:
        grid.add(Cell(variant, density) for density in spec.densities if variant.row.applies_at(density))


def make_runs(grid: Grid, spec: StudySpec, scheduler: RunScheduler[StudyRun, Measured], price: Pricing) -> None:
    """Make the runs of the grid, searching for the limits until nothing is left to ask; the grid grows.

    Densities are searched first, for every gamma; then gammas next to the best ones, and again densities for these.

    Args:
        grid: with the listed cells.
        spec: the limits, and the step of the search.
        scheduler: makes runs, and has what they gave.
        price: the points of the grid from what was measured.

    Raises:
        UsageError: the dense model cannot be measured, so nothing can.
    """
    # First by itself: what is wrong with the text or the model shows before anything else is begun.
    scheduler.make([DENSE_RUN])
    if DENSE_RUN in scheduler.failures:
        raise UsageError(scheduler.failures[DENSE_RUN].reason)
    dense = scheduler.found[DENSE_RUN].perplexity
    increases = [increase.of(dense) for increase in spec.increases]
    while True:
        scheduler.make(list(grid.runs()))
        before = len(grid.cells)
        for variant in grid.variants:
            grid.add(list(grid.search(variant, scheduler.found, [dense + i for i in increases], spec.step)))
        if len(grid.cells) == before and increases and spec.step:
            points = price()
            grid.add(list(gammas_between(grid, points, targets(points, dense, increases))))
        if len(grid.cells) == before:
            return
