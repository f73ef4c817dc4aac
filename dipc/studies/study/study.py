"""`run_study`: measure what has to be measured, price everything, and say what follows."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dipc.documents import JsonObject
from dipc.errors import UsageError
from dipc.frontend.hugging_face import capture
from dipc.hardware.device import Device
from dipc.hardware.find import device_for, file_of
from dipc.ir.program import Program
from dipc.memory.lowering import mean_bits
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.registry import plugin_files
from dipc.studies.engine.cluster import RayCluster, check_cluster
from dipc.studies.engine.dense_session import CACHED_BYTES
from dipc.studies.engine.processes import WorkerProcesses
from dipc.studies.engine.scheduler import Progress, RunScheduler
from dipc.studies.engine.workers import InProcess, Workers
from dipc.studies.options import ActivityMeasure, DeviceGrid, StudyRuns, StudySearch
from dipc.studies.study.executor import StudyExecutor, StudySetup
from dipc.studies.study.findings import findings
from dipc.studies.study.grid import Grid
from dipc.studies.study.grid_runs import add_listed, make_runs
from dipc.studies.study.measure import DENSE_RUN, StudyRun
from dipc.studies.study.points import Points
from dipc.studies.study.programs import Programs
from dipc.studies.study.result import Study
from dipc.studies.study.spec import StudySpec, parse_spec
from dipc.studies.study.store import StudyStore
from dipc.studies.study.targets import targets
from dipc.studies.study.timelines import timelines
from dipc.text import as_text, sample_text


def run_study(
    model: Program | str | Path | torch.nn.Module,
    methods: str | Sequence[str] = "dense,dip,dip-ca,dip-ca+shared",
    densities: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5),
    *,
    devices: DeviceGrid = DeviceGrid(),
    search: StudySearch = StudySearch(),
    measured: ActivityMeasure = ActivityMeasure(max_tokens=8192),
    runs: StudyRuns = StudyRuns(),
    progress: Progress | None = None,
    **capture_options: Any,
) -> Study:
    """Go over methods and densities on one device: the paper's Tables 2, 6 and 7 and Figures 10 and 11.

    Runs of the model are kept in the folder, so that a rerun, or a study of other DRAM sizes, makes only what is
    missing. A model known by its config alone has no perplexity, and its points rest on made-up activity.

    Args:
        model: the dense model: a Program, or what `capture` takes.
        methods: names or pipelines, as for `compare`; the dense model is always there.
        densities: kept shares of the MLPs' weights, in (0, 1].
        devices: the device, with every DRAM, flash and policy.
        search: gammas, perplexities to keep within, and densities between those that were given.
        measured: what programs are measured on.
        runs: where runs are made, and kept.
        progress: called with runs done, runs known of so far, and the name of the one at work.
        **capture_options: for `capture`.

    Raises:
        UsageError: something asked for that cannot be, nothing to do, or a folder that holds another study.
        MissingDependency: a cluster without its package.
    """
    _check_runs(model, runs)

    @cache
    def opened() -> Programs:
        found = model if isinstance(model, Program) else capture(model, **capture_options)
        return Programs(_dense(found), devices.bits_per_weight)

    # What is wrong with the question is said before a model is opened for it.
    calibration = _path(measured.calibration, runs.cluster)
    spec = parse_spec(methods, densities, devices, search, calibration, lambda: opened().dense_bytes)
    programs = opened()
    program = programs.dense
    if spec.increases and not program.info.has_weights:
        raise UsageError(f"{program.info.name} is known by its config alone, so it has no perplexity to keep within")
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(prefix="dipc-study-")) if runs.out is None else runs.out
        setup = _setup(model, program, measured, dataclasses.replace(runs, out=out), capture_options)
        positions = program.info.usual_context if devices.context is None else devices.context
        grid = Grid(programs, (setting.dram_bytes for setting in spec.settings), positions)
        points = _points(setup, spec, grid, measured, runs, progress or (lambda done, total, label: None))
        return _result(points, setup, _device(devices.hardware))


def _setup(
    model: object, program: Program, measured: ActivityMeasure, runs: StudyRuns, capture_options: Mapping[str, Any]
) -> StudySetup:
    """Return what all runs share, whose folder is that of `runs`."""
    return StudySetup(
        model=_path(str(model), runs.cluster) if isinstance(model, (str, Path)) else program.info.name,
        capture_options=tuple(sorted(capture_options.items())),
        plugins=tuple(plugin_files()),
        text=as_text(measured.text) or sample_text(),
        seq_len=program.info.usual_context if measured.seq_len is None else measured.seq_len,
        max_tokens=measured.max_tokens,
        folder=Path(str(runs.out)).resolve(),
        cached_bytes=CACHED_BYTES // runs.jobs,
    )


def _points(
    setup: StudySetup, spec: StudySpec, grid: Grid, measured: ActivityMeasure, runs: StudyRuns, progress: Progress
) -> Points:
    """Make what has to be measured for all points, and return what prices them."""
    program = grid.programs.dense
    folder = setup.opened(program.info)
    add_listed(grid, spec)
    points = Points(spec, grid, measured.warmup, measured.seed, None, {}, {})
    if not program.info.has_weights:
        return points
    store = StudyStore(folder, program, setup.text, setup.windows)
    scheduler = RunScheduler(store, lambda: _workers(setup, grid.programs, runs), progress)

    def priced() -> Points:
        return dataclasses.replace(points, store=store, measured=scheduler.found, failures=scheduler.failures)

    with closing(scheduler):
        make_runs(grid, spec, scheduler, lambda: tuple(priced().all()))
    return priced()


def _check_runs(model: object, runs: StudyRuns) -> None:
    """Refuse workers that cannot be had."""
    check_cluster(runs.cluster)
    if (runs.jobs > 1 or runs.cluster) and not isinstance(model, (str, Path)):
        raise UsageError("jobs: other processes load the model themselves; give its name or folder")


def _result(points: Points, setup: StudySetup, device: Mapping[str, object]) -> Study:
    programs, spec, dense = points.grid.programs, points.spec, points.measured.get(DENSE_RUN)
    program, all_points = programs.dense, tuple(points.all())
    found = Study(
        model={
            "name": program.info.name,
            "digest": program.info.digest,
            "bytes": programs.dense_bytes,
            "bits_per_weight": mean_bits(program, programs.bits_per_weight),
            "has_weights": program.info.has_weights,
        },
        text=None if dense is None else setup.described(dense.tokens),
        warmup=points.warmed,
        seed=points.seed,
        scope="all",
        device=device,
        settings={
            "context": points.grid.context,
            "step": spec.step,
            "reads": {**vars(spec.reads), "described": spec.reads.described(spec.settings[0].device)},
        },
        dense_perplexity=None if dense is None else dense.perplexity,
        points=all_points,
    )
    if dense is not None:
        increases = [item.of(dense.perplexity) for item in spec.increases]
        found = dataclasses.replace(found, targets=tuple(targets(all_points, dense.perplexity, increases)))
    found = dataclasses.replace(found, timelines=tuple(timelines(found, points)))
    return dataclasses.replace(found, findings=tuple(findings(found)))


def _workers(setup: StudySetup, programs: Programs, runs: StudyRuns) -> Workers[StudyRun]:
    if runs.cluster:
        return RayCluster(setup)
    if runs.jobs > 1:
        return WorkerProcesses(setup, runs.jobs)
    return InProcess(StudyExecutor(setup, programs.dense, programs.compiled))


def _dense(program: Program) -> Program:
    """The model with its MLPs outlined, which every program of the study is made of."""
    if program.method.name != "dense":
        made = program.method.options
        raise UsageError(f"{program.info.name} was compiled with {made} already; a study starts from the dense model")
    return program if program.mlps else run_pipeline(program, parse_pipeline("outline-glu")).program


def _path(given: str | Path | None, cluster: str | None) -> Any:
    """A path as it was given; for other machines, whose working folder is another one, in full."""
    there = given is not None and cluster is not None and Path(given).exists()
    return str(Path(str(given)).resolve()) if there else None if given is None else str(given)


def _device(hardware: str | Device) -> JsonObject:
    device = device_for(hardware, None, None, 0)
    return {
        "name": device.name,
        "file": file_of(hardware) if isinstance(hardware, str) else None,
        "description": device.description,
        "assumptions": [a._asdict() for a in device.assumptions()],
    }
