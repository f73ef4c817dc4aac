"""`dipc plan`: what to use on a device, and what to expect of it."""

from __future__ import annotations

from typing import Annotated

import typer

from dipc.cli.compare import cells
from dipc.cli.options import ModelOptions, grouped
from dipc.cli.study import KeptRuns, Model
from dipc.cli.terminal import show, show_json
from dipc.memory.flash import FlashReadOptions
from dipc.studies.options import ActivityMeasure, MeasureOptions, PlanBudget, PlanChoices


@grouped
def command(
    model: Model,
    hw: Annotated[str, typer.Option("--hw", metavar="DEVICE", help="A device's name (`dipc hw list`) or file.")],
    budget: PlanBudget = PlanBudget(),
    choices: PlanChoices = PlanChoices(),
    reads: FlashReadOptions = FlashReadOptions(),
    measured: MeasureOptions = MeasureOptions(max_tokens=8192),
    runs: KeptRuns = KeptRuns(),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Plan for a device (simulated).

    The method, density and gamma to compile with, what to expect beside the dense model, and what would help.
    """
    from dipc.registry import load_installed_plugins
    from dipc.studies.engine.cluster import check_cluster

    check_cluster(runs.cluster)
    load_installed_plugins()
    from dipc import api
    from dipc.report.plan import plan_dict, plan_tables

    with cells() as progress:
        found = api.plan(
            model,
            hw,
            budget=budget,
            choices=choices,
            reads=reads,
            measured=ActivityMeasure(**vars(measured)),
            runs=runs,
            progress=progress,
            **common.capture,
        )
    if common.json:
        show_json(plan_dict(found))
    else:
        show(plan_tables(found))
