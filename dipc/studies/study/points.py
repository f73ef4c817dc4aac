"""Points: every cell at every setting under every policy, from the activity that its run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dipc.errors import UsageError
from dipc.ir.selections import with_capacities
from dipc.memory.price import Price
from dipc.memory.synthetic import synthetic_trace
from dipc.memory.trace import Trace
from dipc.studies.engine.run import RunFailure
from dipc.studies.study.grid import Cell, Grid
from dipc.studies.study.measure import DENSE_RUN, Measured, StudyRun
from dipc.studies.study.method_grid import DENSE
from dipc.studies.study.pricing import DeviceSetting, Priced, cost_of, point_id, priced
from dipc.studies.study.result import Point, TokenCost
from dipc.studies.study.spec import StudySpec
from dipc.studies.study.store import StudyStore

NO_TRACE = "every weight is read for every token; no trace is needed"


@dataclass(frozen=True)
class PricedActivity:
    """The activity that is priced: the trace if one is needed, where that comes from, and its seed if it was drawn."""

    trace: Trace | None
    source: str
    seed: int | None


@dataclass
class Points:
    """The prices of everything.

    Attributes:
        spec: settings, policies, and how missed units are read.
        grid: the cells.
        warmup: tokens that fill the caches; None for a quarter of the trace.
        seed: of activity that is drawn.
        store: finished runs; None for a model without weights.
        measured: what runs gave.
        failures: why runs were not made.
        warmed: tokens that filled the caches of the last cell that was priced.
    """

    spec: StudySpec
    grid: Grid
    warmup: int | None
    seed: int
    store: StudyStore | None
    measured: Mapping[StudyRun, Measured]
    failures: Mapping[StudyRun, RunFailure]
    warmed: int | None = None

    def all(self) -> Iterator[Point]:
        """The points, the dense model's first.

        Raises:
            UsageError: not even the dense model can be priced anywhere.
        """
        dense = {found.setting: found for found in self._dense()}
        if all(found.price is None for found in dense.values()):
            raise UsageError(str(next(iter(dense.values())).reason))
        yield from map(self._dense_point, dense.values())
        order = {variant: number for number, variant in enumerate(self.grid.variants)}
        for cell in sorted(self.grid.cells, key=lambda cell: (order[cell.variant], -cell.density)):
            for found, run, activity in self._cell(cell):
                beside = dense[found.setting].price
                yield self._point(cell, found, run, activity, 0.0 if beside is None else beside.throughput)

    def price(self, point: Point) -> Price | None:
        """The price of a point, made anew, with all that points leave out."""
        cells = (cell for cell, made in self.grid.cells.items() if made.pipeline == point.pipeline)
        found = self._dense() if point.method == DENSE else (p for cell in cells for p, *_ in self._cell(cell))
        return next((p.price for p in found if _is_at(point, p)), None)

    def _dense(self) -> Iterator[Priced]:
        lowered, spec = self.grid.programs.lowered(""), self.spec
        return priced(lowered, spec.settings, [spec.dense_policy], self.grid.context, spec.reads, None, 0)

    def _cell(self, cell: Cell) -> Iterator[tuple[Priced, StudyRun | None, PricedActivity | None]]:
        """A cell's prices, each with the run and the activity that it rests on."""
        policies = [cell.variant.policy] if cell.variant.policy else list(self.spec.policies)
        by_run: dict[StudyRun | str, list[DeviceSetting]] = {}
        for setting in self.spec.settings:
            by_run.setdefault(self.grid.run(cell, setting.dram_bytes), []).append(setting)
        for run, settings in by_run.items():
            if isinstance(run, str):
                yield from (
                    (Priced(setting, policy, None, run), None, None) for setting in settings for policy in policies
                )
                continue
            try:
                if run in self.failures:
                    raise UsageError(self.failures[run].reason)
                activity = self._activity(run)
                found = list(self._priced(run, activity, settings, policies))
            except UsageError as error:
                found = [Priced(setting, policy, None, str(error)) for setting in settings for policy in policies]
                activity = None
            yield from ((item, run, activity) for item in found)

    def _priced(
        self, run: StudyRun, activity: PricedActivity, settings: list[DeviceSetting], policies: list[str]
    ) -> Iterator[Priced]:
        warmup = 0
        if activity.trace is not None:
            warmup = self.warmed = activity.trace.tokens // 4 if self.warmup is None else self.warmup
        lowered, reads = self.grid.programs.lowered(run.pipeline), self.spec.reads
        return priced(lowered, settings, policies, self.grid.context, reads, activity.trace, warmup)

    def _activity(self, run: StudyRun) -> PricedActivity:
        programs = self.grid.programs
        if all(site.full for site in programs.lowered(run.pipeline).traffic.sites):
            return PricedActivity(None, NO_TRACE, None)
        if self.store is not None:
            trace = self.store.trace(run)
            return PricedActivity(
                trace, f"recorded on {trace.meta.get('text')}" + (", closed loop" if run.capacities else ""), None
            )
        trace = synthetic_trace(with_capacities(programs.compiled(run.pipeline), dict(run.capacities)), self.seed)
        return PricedActivity(trace, str(trace.meta["source"]), self.seed)

    def _cost(self, pipeline: str, price: Price, dense_speed: float) -> TokenCost:
        return cost_of(price, self.grid.programs.lowered(pipeline).traffic.mlp_bytes, dense_speed)

    def _dense_point(self, found: Priced) -> Point:
        measured, setting = self.measured.get(DENSE_RUN), found.setting
        return Point(
            id=point_id(DENSE, 1.0, None, found.policy, setting),
            method=DENSE,
            pipeline="",
            density=1.0,
            gamma=None,
            policy=found.policy,
            dram_bytes=setting.dram_bytes,
            flash_bytes_per_s=setting.flash_bytes_per_s,
            perplexity=None if measured is None else measured.perplexity,
            kl=None if measured is None else 0.0,
            density_measured=1.0,
            cost=None if found.price is None else self._cost("", found.price, found.price.throughput),
            source="" if found.price is None else NO_TRACE,
            reason=found.reason,
        )

    def _point(
        self, cell: Cell, found: Priced, run: StudyRun | None, activity: PricedActivity | None, dense_speed: float
    ) -> Point:
        made, setting = self.grid.cells[cell], found.setting
        measured = None if run is None else self.measured.get(run)
        expected = None if found.price is None else self.grid.programs.lowered(made.pipeline).density
        return Point(
            id=point_id(cell.variant.method, cell.density, made.gamma, found.policy, setting),
            method=cell.variant.method,
            pipeline=made.pipeline,
            density=cell.density,
            gamma=made.gamma,
            policy=found.policy,
            dram_bytes=setting.dram_bytes,
            flash_bytes_per_s=setting.flash_bytes_per_s,
            perplexity=None if measured is None else measured.perplexity,
            kl=None if measured is None else measured.kl,
            density_measured=expected if measured is None else measured.density,
            cost=None if found.price is None else self._cost(made.pipeline, found.price, dense_speed),
            source="" if activity is None else activity.source,
            seed=None if activity is None else activity.seed,
            reason=found.reason,
            failed=run in self.failures,
        )


def _is_at(point: Point, found: Priced) -> bool:
    setting = found.setting
    there = (setting.dram_bytes, setting.flash_bytes_per_s, found.policy)
    return there == (point.dram_bytes, point.flash_bytes_per_s, point.policy)
