"""The cells of a study, each a method at a density, and the run that each needs on so much DRAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dipc.errors import CalibrationNeeded, UnsupportedModel, UsageError
from dipc.studies.study.measure import Measured, StudyRun
from dipc.studies.study.method_grid import Variant
from dipc.studies.study.pricing import capacities
from dipc.studies.study.programs import Programs
from dipc.studies.study.search import next_density


@dataclass(frozen=True)
class Cell:
    """A method with all of its options."""

    variant: Variant
    density: float


@dataclass(frozen=True)
class CellPipeline:
    """A cell's pipeline and gamma, and why it cannot be compiled if it cannot."""

    pipeline: str
    gamma: float | None
    reason: str | None = None


class Grid:
    """Cells, which may become more while the study searches.

    Args:
        programs: that they are compiled of.
        drams: sizes in bytes.
        context: positions of KV cache.
    """

    def __init__(self, programs: Programs, drams: Iterable[int], context: int) -> None:
        self.programs, self.drams, self.context = programs, tuple(dict.fromkeys(drams)), context
        self.cells: dict[Cell, CellPipeline] = {}
        self._runs: dict[tuple[Cell, int], StudyRun | str] = {}

    def add(self, cells: Iterable[Cell]) -> None:
        """Add cells, compiling them."""
        for cell in cells:
            if cell not in self.cells:
                self.cells[cell] = self._compiled(cell)
                self._runs |= {(cell, dram): self._run(cell, dram) for dram in self.drams}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The methods in the order of their cells; a gamma that was found stands with the others of its method."""
        found = dict.fromkeys(cell.variant for cell in self.cells)
        first = {variant.alike: place for place, variant in reversed(list(enumerate(found)))}
        return tuple(sorted(found, key=lambda variant: first[variant.alike]))

    def run(self, cell: Cell, dram: int) -> StudyRun | str:
        """Return what has to be made for a cell on so much DRAM, or why nothing can be."""
        return self._runs[cell, dram]

    def runs(self) -> Iterator[StudyRun]:
        """All runs, each once."""
        yield from dict.fromkeys(run for run in self._runs.values() if isinstance(run, StudyRun))

    def search(
        self, variant: Variant, measured: Mapping[StudyRun, Measured], limits: Iterable[float], step: float
    ) -> Iterator[Cell]:
        """The cells to measure next, to find where the variant's perplexity passes the limits."""
        if variant.row.is_fixed or not step:
            return
        cells = [cell for cell in self.cells if cell.variant == variant]
        tried = {cell.density for cell in cells}
        wanted: dict[float, None] = {}
        for dram in self.drams:
            runs = {cell.density: self._runs[cell, dram] for cell in cells}
            known = {d: measured[r].perplexity for d, r in runs.items() if isinstance(r, StudyRun) and r in measured}
            for limit in limits if known else ():
                density = next_density(known, tried, limit, step)
                if density is not None and variant.row.applies_at(density):
                    wanted[density] = None
        yield from (Cell(variant, density) for density in wanted)

    def _compiled(self, cell: Cell) -> CellPipeline:
        pipeline = cell.variant.row.pipeline(cell.density)
        try:
            passes = cell.variant.passes(cell.density)
            pipeline = cell.variant.pipeline(cell.density)
            self.programs.lowered(pipeline)
        except CalibrationNeeded:
            return CellPipeline(
                pipeline, cell.variant.gamma, "needs a calibration: give one that `dipc calibrate` wrote"
            )
        except (UsageError, UnsupportedModel) as error:
            return CellPipeline(pipeline, cell.variant.gamma, str(error))
        return CellPipeline(pipeline, next((item.gamma for item in passes if item.cache_aware), None))  # type: ignore[attr-defined]

    def _run(self, cell: Cell, dram: int) -> StudyRun | str:
        compiled = self.cells[cell]
        if compiled.reason is not None:
            return compiled.reason
        try:
            room = capacities(self.programs.lowered(compiled.pipeline), dram, self.context)
        except UsageError as error:
            return str(error)
        gamma = "" if compiled.gamma is None else f" gamma {compiled.gamma:g}"
        return StudyRun(f"{cell.variant.method} {cell.density:g}{gamma}", compiled.pipeline, room)
