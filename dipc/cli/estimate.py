"""`dipc estimate`: what a program would do on a device, simulated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import ModelOptions, TextFile, grouped
from dipc.cli.target import open_target
from dipc.cli.terminal import Target, counting, show, show_json
from dipc.memory.budget import MemoryBudget
from dipc.memory.flash import FlashReadOptions
from dipc.options import MOST_SEED, Options, TextSpec

if TYPE_CHECKING:
    from dipc.evaluation.estimate import ActivityOptions
    from dipc.hardware.device import Device


@dataclass(frozen=True)
class ActivityFiles(Options):
    """Where the activity comes from that is priced: the fields of the library's `ActivityOptions`, as files."""

    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay this activity instead of running the program.")
    ] = None
    activity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw activity from this model of it (`dipc trace fit`).")
    ] = None
    text: TextFile = None
    warmup: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that fill the cache first; by default a quarter.")
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of the made-up activity.")] = 0
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the policy static has the units' popularity from.")
    ] = None

    def read(self) -> ActivityOptions:
        """Return what the files hold."""
        from dipc.evaluation.estimate import ActivityOptions
        from dipc.memory.synthetic import ActivityModel
        from dipc.memory.trace import Trace
        from dipc.text import read_text

        return ActivityOptions(
            trace=None if self.trace is None else Trace.load(self.trace, mapped=True),
            activity=None if self.activity is None else ActivityModel.load(self.activity),
            text=None if self.text is None else read_text(self.text),
            warmup=self.warmup,
            seed=self.seed,
            calibration=self.calibration,
        )


@dataclass(frozen=True)
class PricingFlags(Options):
    """The backend that prices the traffic, and the file that is written beside the table."""

    backend: Annotated[str, typer.Option(metavar="NAME", help="What prices the traffic (`dipc backends list`).")] = (
        "cost"
    )
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the last token's reads as a trace for ui.perfetto.dev.")
    ] = None


@grouped
def command(
    target: Target,
    hw: Annotated[str, typer.Option("--hw", metavar="DEVICE", help="A device's name (`dipc hw list`) or file.")],
    budget: MemoryBudget = MemoryBudget(),
    activity: ActivityFiles = ActivityFiles(),
    windows: TextSpec = TextSpec(max_tokens=2048),
    reads: FlashReadOptions = FlashReadOptions(),
    pricing: PricingFlags = PricingFlags(),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Estimate the speed on a device (simulated).

    Dense beside sparse; every figure follows from the memory traffic of each token.
    """
    device = _device(hw, budget, pricing.backend)
    if pricing.timeline is not None:
        from dipc.files import check_output_file

        read = (target, hw, activity.trace, activity.activity, activity.text, activity.calibration)
        check_output_file(pricing.timeline, option="--timeline", inputs=read)
    given = activity.read()
    program = open_target(target, **common.capture).program
    from dipc import api
    from dipc.hardware.find import file_of
    from dipc.report.estimate import estimate_dict, estimate_tables, write_timeline

    with counting("windows") as progress:
        found = api.estimate(
            program,
            device,
            budget=budget,
            source=given,
            windows=windows,
            reads=reads,
            backend=pricing.backend,
            progress=progress,
        )
    if pricing.timeline is not None:
        write_timeline(found, pricing.timeline)
    if common.json:
        show_json(estimate_dict(found, file_of(hw)))
    else:
        show(estimate_tables(found, file_of(hw)))


def _device(hw: str, budget: MemoryBudget, backend: str) -> Device:
    """Return the device; what is misspelt is said before a model is opened, which may take long."""
    from dipc.backends import get_backend
    from dipc.cache.policy import get_policy
    from dipc.hardware.find import load_device
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    get_backend(backend, "price")
    if budget.policy is not None:
        get_policy(budget.policy)
    return load_device(hw)
