"""`dipc study`: methods on a device, over densities, DRAM, flash, policies and gamma."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.compare import cells
from dipc.cli.options import ModelOptions, grouped
from dipc.cli.terminal import show, show_json
from dipc.errors import DipcError
from dipc.memory.flash import FlashReadOptions
from dipc.options import Options
from dipc.studies.options import ActivityMeasure, DeviceGrid, StudyRuns, StudySearch, items, numbers

if TYPE_CHECKING:
    from dipc.studies.study import Study

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The dense model: demo, smollm2, a folder, a GGUF file, a hub id, a config.json."
    ),
]


@dataclass(frozen=True)
class MethodLists(Options):
    """The methods of a study, and their densities."""

    methods: Annotated[str, typer.Option(metavar="LIST", help="Names; all, paper.")] = "dense,dip,dip-ca,dip-ca+shared"
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A pipeline of your own, run at each density: 'int4,dip'; may be repeated."),
    ] = None
    density: Annotated[str, typer.Option(metavar="LIST", help="Kept shares of the MLPs' weights.")] = (
        "0.9,0.8,0.7,0.6,0.5"
    )


@dataclass(frozen=True)
class KeptRuns(StudyRuns):
    """The place where the runs of a study are made, and kept."""

    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Keeps all runs; a rerun goes on.")
    ] = None


@grouped
def command(
    model: Model,
    lists: MethodLists = MethodLists(),
    devices: DeviceGrid = DeviceGrid(),
    reads: FlashReadOptions = FlashReadOptions(),
    search: StudySearch = StudySearch(),
    measured: ActivityMeasure = ActivityMeasure(max_tokens=8192),
    runs: KeptRuns = KeptRuns(),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Study methods on a device (simulated).

    Throughput beside perplexity, over densities, DRAM, flash, policies and gamma. The model runs once per density, and
    once per DRAM where its selection follows the cache; everything else is priced from that. If a run fails, the others
    are shown and the exit code is 1.
    """
    from dipc.registry import load_installed_plugins
    from dipc.studies.engine.cluster import check_cluster

    check_cluster(runs.cluster)
    load_installed_plugins()
    from dipc import api
    from dipc.report.study import study_dict, study_tables

    with cells() as progress:
        found = api.run_study(
            model,
            [*items(lists.methods), *(lists.method or ())],
            numbers("--density")(lists.density),
            devices=dataclasses.replace(devices, reads=reads),
            search=search,
            measured=measured,
            runs=runs,
            progress=progress,
            **common.capture,
        )
    if common.json:
        show_json(study_dict(found))
    else:
        show([*study_tables(found), *([] if runs.out is None else ["", f"wrote study.json to {runs.out}"])])
    if found.failures:
        raise DipcError(_failures(found))


def _failures(found: Study) -> str:
    first, count = found.failures[0], len(found.failures)
    return (
        f"study: {count} of {len(found.points)} points failed ({first.id}: {first.reason}); the others are kept, a "
        "rerun tries again"
    )
