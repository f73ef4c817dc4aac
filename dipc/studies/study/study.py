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

from dipc.errors import UsageError
from dipc.frontend.hugging_face import capture
from dipc.hardware.device import Device
from dipc.hardware.find import device_for, file_of
from dipc.ir.program import Program
from dipc.memory.flash import FlashReadOptions
from dipc.memory.lowering import mean_bits
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.registry import plugin_files
from dipc.studies.compare.folder import Folder
from dipc.studies.compare.measure import REMEMBERED_BYTES
from dipc.studies.study.asked import asked
from dipc.studies.study.findings import findings
from dipc.studies.study.grid import Grid
from dipc.studies.study.make import DENSE_RUN, STUDY, Maker, Setup, Store
from dipc.studies.study.making import Making, Progress
from dipc.studies.study.measuring import add_listed, measure
from dipc.studies.study.points import Points
from dipc.studies.study.programs import Programs
from dipc.studies.study.result import Study
from dipc.studies.study.targets import targets
from dipc.studies.study.timelines import timelines
from dipc.studies.study.workers import Here, Processes, Ray, Workers, check_cluster
from dipc.text import Text, sample_text


def run_study(
    model: Program | str | Path | torch.nn.Module,
    methods: str | Sequence[str] = "dense,dip,dip-ca",
    densities: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5),
    *,
    gammas: Sequence[float] = (0.2,),
    policies: Sequence[str] = ("lfu",),
    hardware: str | Device = "a18",
    dram: Sequence[str] = (),
    flash: Sequence[str] = (),
    max_ppl_increase: Sequence[str | float] = (),
    step: float = 0.02,
    out: str | Path | None = None,
    text: Text | str | None = None,
    seq_len: int | None = None,
    max_tokens: int | None = 8192,
    warmup: int | None = None,
    context: int | None = None,
    bits_per_weight: float | None = None,
    reads: FlashReadOptions | None = None,
    calibration: str | Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    cluster: str | None = None,
    progress: Progress | None = None,
    **capture_options: Any,
) -> Study:
    """Go over methods and densities on one device: the paper's Tables 2, 6 and 7 and Figures 10 and 11.

    Runs of the model are kept in the folder, so that a rerun, or a study of other DRAM sizes, makes only what is
    missing. A model known by its config alone has no perplexity, and its points rest on made-up activity.

    Args:
        model: the dense model: a Program, or what `capture` takes.
        methods: names or pipelines with DENSITY, as for `compare`; the dense model is always there.
        densities: kept shares of the MLPs' weights, in (0, 1].
        gammas: of cache-aware methods whose pipeline says none.
        policies: eviction policies; cache-aware methods leave out what knows the future or caches nothing.
        hardware: a device's name, file, or the device.
        dram: sizes such as "4 GB", or shares of the model such as "50%"; by default what the device has.
        flash: bandwidths such as "1 GB/s"; by default the device's.
        max_ppl_increase: targets: perplexity over the dense model's, 0.2, or a share of it, "5%".
        step: densities are searched between those that were given, on a grid of this step; 0 searches none.
        out: the folder that keeps everything; by default nothing is kept.
        text: what to measure on; by default the sample that comes with dipc.
        seq_len: tokens of a window; by default the model's context, at most 2,048.
        max_tokens: use only so many tokens from the start of the text.
        warmup: tokens that fill the caches before one is counted; by default a quarter of the trace.
        context: positions of KV cache in DRAM; by default the model's context, at most 2,048. The paper counts none.
        bits_per_weight: width of a stored weight, scales included; by default the checkpoint's.
        reads: how missed units are read from flash; by default each by itself.
        calibration: a file of `calibrate`, for the methods that need one.
        seed: of activity that is made up.
        jobs: processes that run the model; more than one want `model` to be a name or a path.
        cluster: `ray` makes the runs on a Ray cluster instead.
        progress: called with runs done, runs known of so far, and the name of the one at work.
        **capture_options: for `capture`.

    Raises:
        UsageError: something asked for that cannot be, nothing to do, or a folder that holds another study.
        MissingDependency: a cluster without its package.
    """
    check_cluster(cluster)
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; it must be at least 1")
    if (jobs > 1 or cluster) and not isinstance(model, (str, Path)):
        raise UsageError("jobs: other processes load the model themselves; give its name or folder")

    @cache
    def opened() -> Programs:
        found = model if isinstance(model, Program) else capture(model, **capture_options)
        return Programs(_dense(found), bits_per_weight)

    # What is wrong with the question is said before a model is opened for it.
    wanted = asked(
        methods=methods,
        densities=densities,
        gammas=gammas,
        policies=policies,
        hardware=hardware,
        dram=dram,
        flash=flash,
        max_ppl_increase=max_ppl_increase,
        step=step,
        reads=reads or FlashReadOptions(),
        calibration=_path(calibration, cluster),
        model_bytes=lambda: opened().lowered("").traffic.total_bytes,
    )
    programs = opened()
    program = programs.dense
    if wanted.increases and not program.info.has_weights:
        raise UsageError(f"{program.info.name} is known by its config alone, so it has no perplexity to keep within")
    positions = program.info.usual_context if context is None else context
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipc-study-")) if out is None else out)
        setup = Setup(
            model=_path(str(model), cluster) if isinstance(model, (str, Path)) else program.info.name,
            capture_options=tuple(sorted(capture_options.items())),
            plugins=tuple(plugin_files()),
            text=(Text("text", text) if isinstance(text, str) else text) or sample_text(),
            seq_len=program.info.usual_context if seq_len is None else seq_len,
            max_tokens=max_tokens,
            folder=folder.resolve(),
            remembered_bytes=REMEMBERED_BYTES // jobs,
        )
        kept = Folder(setup.folder, setup.about(program.info), STUDY)
        store = Store(setup, program, kept) if program.info.has_weights else None
        grid = Grid(programs, (place.dram_bytes for place in wanted.places), positions)
        add_listed(grid, wanted)
        points = Points(wanted, grid, warmup, seed, store, {}, {})
        if store is not None:
            say = progress or (lambda done, total, label: None)
            making = Making(store, lambda: _workers(setup, program, programs, jobs, cluster), say)
            with closing(making):
                measure(grid, wanted, making)
            points = dataclasses.replace(points, measured=making.measured, failures=making.failures)
        return _result(points, setup, _device(hardware))


def _result(points: Points, setup: Setup, device: Mapping[str, Any]) -> Study:
    programs, asked, dense = points.grid.programs, points.asked, points.measured.get(DENSE_RUN)
    program, all_points = programs.dense, tuple(points.all())
    found = Study(
        model={
            "name": program.info.name,
            "digest": program.info.digest,
            "bytes": programs.lowered("").traffic.total_bytes,
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
            "step": asked.step,
            "reads": {**vars(asked.reads), "described": asked.reads.described(asked.places[0].device)},
        },
        dense_perplexity=None if dense is None else dense.perplexity,
        points=all_points,
    )
    if dense is not None:
        increases = [item.of(dense.perplexity) for item in asked.increases]
        found = dataclasses.replace(found, targets=tuple(targets(all_points, dense.perplexity, increases)))
    found = dataclasses.replace(found, timelines=tuple(timelines(found, points)))
    return dataclasses.replace(found, findings=tuple(findings(found)))


def _workers(setup: Setup, program: Program, programs: Programs, jobs: int, cluster: str | None) -> Workers:
    if cluster:
        return Ray(setup)
    return Processes(setup, jobs) if jobs > 1 else Here(Maker(setup, program, programs.compiled))


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


def _device(hardware: str | Device) -> dict[str, Any]:
    device = device_for(hardware, None, None, 0)
    return {
        "name": device.name,
        "file": file_of(hardware) if isinstance(hardware, str) else None,
        "description": device.description,
        "assumptions": [a._asdict() for a in device.assumptions()],
    }
