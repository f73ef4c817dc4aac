"""The runs of a study's grid: those of all cells, then those that the search for the limits asks for."""

from __future__ import annotations

from dipc.errors import UsageError
from dipc.studies.engine.scheduler import RunScheduler
from dipc.studies.study.grid import Cell, Grid
from dipc.studies.study.measure import DENSE_RUN, Measured, StudyRun
from dipc.studies.study.spec import StudySpec


def add_listed(grid: Grid, spec: StudySpec) -> None:
    """Add the cells of the densities that were listed."""
    for variant in spec.variants:
        grid.add(Cell(variant, density) for density in spec.densities if variant.row.applies_at(density))


def make_runs(grid: Grid, spec: StudySpec, scheduler: RunScheduler[StudyRun, Measured]) -> None:
    """Make the runs of the grid, searching for the limits until nothing is left to ask; the grid grows.

    Raises:
        UsageError: the dense model cannot be measured, so nothing can.
    """
    # First by itself: what is wrong with the text or the model shows before anything else is begun.
    scheduler.make([DENSE_RUN])
    if DENSE_RUN in scheduler.failures:
        raise UsageError(scheduler.failures[DENSE_RUN].reason)
    dense = scheduler.found[DENSE_RUN].perplexity
    limits = [dense + increase.of(dense) for increase in spec.increases]
    while True:
        scheduler.make(list(grid.runs()))
        before = len(grid.cells)
        for variant in spec.variants:
            grid.add(list(grid.search(variant, scheduler.found, limits, spec.step)))
        if len(grid.cells) == before:
            return
