"""The measuring of a study: the runs of all cells, then those that the search for the limits asks for."""

from __future__ import annotations

from dipc.errors import UsageError
from dipc.studies.study.asked import Asked
from dipc.studies.study.grid import Cell, Grid
from dipc.studies.study.make import DENSE_RUN
from dipc.studies.study.making import Making


def add_listed(grid: Grid, asked: Asked) -> None:
    """The cells of the densities that were listed."""
    for variant in asked.variants:
        grid.add(Cell(variant, density) for density in asked.densities if variant.entry.stands_at(density))


def measure(grid: Grid, asked: Asked, making: Making) -> None:
    """Make the runs of the grid, searching for the limits until nothing is left to ask; the grid grows.

    Raises:
        UsageError: the dense model cannot be measured, so nothing can.
    """
    # First by itself: what is wrong with the text or the model shows before anything else is begun.
    making.make([DENSE_RUN])
    if DENSE_RUN in making.failures:
        raise UsageError(making.failures[DENSE_RUN])
    dense = making.measured[DENSE_RUN].perplexity
    limits = [dense + increase.of(dense) for increase in asked.increases]
    while True:
        making.make(list(grid.runs()))
        before = len(grid.cells)
        for variant in asked.variants:
            grid.add(list(grid.search(variant, making.measured, limits, asked.step)))
        if len(grid.cells) == before:
            return
