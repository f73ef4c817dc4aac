"""The work of a study: make the missing runs, search for more, and price every cell at every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dipc.backends.price import Price
from dipc.errors import UsageError
from dipc.lower import with_capacities
from dipc.study.asked import Asked
from dipc.study.grid import Cell, Grid
from dipc.study.make import DENSE_RUN, Measured, Run, Store
from dipc.study.pricing import Place, Priced, cost_of, point_id, priced
from dipc.study.programs import Lowered, Programs
from dipc.study.result import Point
from dipc.study.variants import DENSE
from dipc.study.workers import Failures, Workers
from dipc.synthetic import synthetic_trace
from dipc.trace import Trace

Progress = Callable[[float, int, str], None]
"""Called with runs done, runs that are known of so far, and the name of the one at work."""


@dataclass
class Work:
    """A study that is going on.

    Attributes:
        programs: of the model.
        asked: what for.
        context: positions of KV cache.
        warmup: tokens that fill the caches; None for a quarter of the trace.
        seed: of activity that is made up.
        store: finished runs; None for a model without weights.
    """

    programs: Programs
    asked: Asked
    context: int
    warmup: int | None
    seed: int
    store: Store | None
    measured: dict[Run, Measured] = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)
    warmed: int | None = None

    def __post_init__(self) -> None:
        self.grid = Grid(self.programs, (place.dram_bytes for place in self.asked.places), self.context)
        self.grid.add(
            Cell(variant, density)
            for variant in self.asked.variants
            for density in self.asked.densities
            if variant.entry.stands_at(density)
        )

    @property
    def dense_perplexity(self) -> float | None:
        """None where nothing was measured."""
        dense = self.measured.get(DENSE_RUN)
        return None if dense is None else dense.perplexity

    def measure(self, open_workers: Callable[[], Workers], progress: Progress) -> None:
        """Make the runs of all cells, then of those that the search for the limits asks for, until it is content.

        Raises:
            UsageError: the dense model cannot be measured: nothing can.
        """
        assert self.store is not None
        making = _Making(self.store, open_workers, progress, self.measured, self.failures)
        try:
            # The dense model first: what is wrong with the text or the model shows before anything else is begun.
            making.make([DENSE_RUN])
            if DENSE_RUN in self.failures:
                raise UsageError(self.failures[DENSE_RUN])
            while True:
                making.make(list(self.grid.runs()))
                before = len(self.grid.cells)
                for variant in self.asked.variants:
                    self.grid.add(list(self.grid.search(variant, self.measured, self._limits(), self.asked.step)))
                if len(self.grid.cells) == before:
                    return
        finally:
            making.close()

    def points(self) -> Iterator[Point]:
        """Every cell at every place under every policy, the dense model first.

        Raises:
            UsageError: not even the dense model can be priced anywhere.
        """
        dense = {p.place: p for p in self._dense()}
        if all(found.price is None for found in dense.values()):
            raise UsageError(str(next(iter(dense.values())).reason))
        for place, found in dense.items():
            yield self._dense_point(found, place)
        order = {variant: number for number, variant in enumerate(self.asked.variants)}
        for cell in sorted(self.grid.cells, key=lambda cell: (order[cell.variant], -cell.density)):
            for found, run, source in self._cell(cell):
                speed = dense[found.place].price
                yield self._point(cell, found, run, source, 0.0 if speed is None else speed.throughput)

    def price(self, point: Point) -> Price | None:
        """The price of a point, made anew with everything that points leave out."""
        if point.method == DENSE:
            return next(p.price for p in self._dense() if _is_at(point, p))
        cells = (cell for cell, made in self.grid.cells.items() if made.pipeline == point.pipeline)
        return next((p.price for cell in cells for p, *_ in self._cell(cell) if _is_at(point, p)), None)

    def _limits(self) -> list[float]:
        dense = self.measured[DENSE_RUN].perplexity
        return [dense + increase.of(dense) for increase in self.asked.increases]

    def _dense(self) -> Iterator[Priced]:
        lowered = self.programs.lowered("")
        return priced(lowered, self.asked.places, [self.asked.dense_policy], self.context, None, 0)

    def _cell(self, cell: Cell) -> Iterator[tuple[Priced, Run | None, str]]:
        """A cell's prices, each with the run that it rests on and where the activity comes from."""
        variant, places = cell.variant, self.asked.places
        policies = [variant.policy] if variant.policy else list(self.asked.policies)
        by_run: dict[Run | str, list[Place]] = {}
        for place in places:
            by_run.setdefault(self.grid.run(cell, place.dram_bytes), []).append(place)
        for run, where in by_run.items():
            reason = run if isinstance(run, str) else self.failures.get(run)
            if reason is not None or isinstance(run, str):
                found = [Priced(place, policy, None, reason) for place in where for policy in policies]
                yield from ((p, None if isinstance(run, str) else run, "") for p in found)
                continue
            lowered = self.programs.lowered(run.pipeline)
            try:
                trace, source = self._activity(run, lowered)
                warmup = self._warmup(trace)
                yield from ((p, run, source) for p in priced(lowered, where, policies, self.context, trace, warmup))
            except UsageError as error:
                yield from ((Priced(place, p, None, str(error)), run, "") for place in where for p in policies)

    def _activity(self, run: Run, lowered: Lowered) -> tuple[Trace | None, str]:
        if all(site.full for site in lowered.traffic.sites):
            return None, "every weight is read for every token; no trace is needed"
        if self.store is not None:
            trace = self.store.trace(run)
            return trace, f"recorded on {trace.meta.get('text')}" + (", closed loop" if run.capacities else "")
        program = with_capacities(self.programs.compiled(run.pipeline), dict(run.capacities))
        return synthetic_trace(program, self.seed), "synthetic: random masks, no real activity"

    def _warmup(self, trace: Trace | None) -> int:
        if trace is None:
            return 0
        self.warmed = trace.tokens // 4 if self.warmup is None else self.warmup
        return self.warmed

    def _dense_point(self, found: Priced, place: Place) -> Point:
        measured = self.measured.get(DENSE_RUN)
        return Point(
            id=point_id(DENSE, 1.0, None, found.policy, place),
            method=DENSE,
            pipeline="",
            density=1.0,
            gamma=None,
            policy=found.policy,
            dram_bytes=place.dram_bytes,
            flash_bytes_per_s=place.flash_bytes_per_s,
            perplexity=None if measured is None else measured.perplexity,
            kl=None if measured is None else 0.0,
            density_measured=1.0,
            cost=None if found.price is None else cost_of(found.price, found.price.throughput),
            source="" if found.price is None else "every weight is read for every token; no trace is needed",
            reason=found.reason,
        )

    def _point(self, cell: Cell, found: Priced, run: Run | None, source: str, dense_speed: float) -> Point:
        made, place = self.grid.cells[cell], found.place
        measured = None if run is None else self.measured.get(run)
        synthetic = self.store is None and found.price is not None
        return Point(
            id=point_id(cell.variant.method, cell.density, made.gamma, found.policy, place),
            method=cell.variant.method,
            pipeline=made.pipeline,
            density=cell.density,
            gamma=made.gamma,
            policy=found.policy,
            dram_bytes=place.dram_bytes,
            flash_bytes_per_s=place.flash_bytes_per_s,
            perplexity=None if measured is None else measured.perplexity,
            kl=None if measured is None else measured.kl,
            density_measured=self.programs.lowered(made.pipeline).density
            if synthetic
            else measured.density
            if measured is not None
            else None,
            cost=None if found.price is None else cost_of(found.price, dense_speed),
            source=source,
            seed=self.seed if synthetic and source.startswith("synthetic") else None,
            reason=found.reason,
            failed=run in self.failures,
        )


def _is_at(point: Point, found: Priced) -> bool:
    place = found.place
    there = (place.dram_bytes, place.flash_bytes_per_s, found.policy)
    return there == (point.dram_bytes, point.flash_bytes_per_s, point.policy)


@dataclass
class _Making:
    """Runs being made: counted, and the workers opened when there is something for them."""

    store: Store
    open_workers: Callable[[], Workers]
    progress: Progress
    measured: dict[Run, Measured]
    failures: Failures
    _workers: Workers | None = None
    _parts: dict[Run, float] = field(default_factory=dict)

    def make(self, runs: list[Run]) -> None:
        """Read the runs that are in the folder, and make the others."""
        missing = []
        for run in runs:
            if run in self.measured or run in self.failures:
                continue
            held = self.store.read(run)
            if held is None:
                missing.append(run)
            else:
                self.measured[run] = held
        if not missing:
            return
        if self._workers is None:
            self._workers = self.open_workers()
        self._parts |= dict.fromkeys(missing, 0.0)
        self.failures |= self._workers.make(missing, self._say)
        for run in missing:
            held = None if run in self.failures else self.store.read(run)
            if held is not None:
                self.measured[run] = held
            else:
                self.failures.setdefault(run, "it was made where the study's folder is not this one; share the folder")

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()

    def _say(self, run: Run, part: float) -> None:
        self._parts[run] = part
        self.progress(sum(self._parts.values()), len(self._parts), run.label)
