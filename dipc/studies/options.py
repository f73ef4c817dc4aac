"""Options of comparisons, studies and plans, each declared once for Python and the command line.

This module is imported by `dipc --help`, so it imports nothing that is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dipc.errors import UsageError
from dipc.memory.budget import MemoryBudget
from dipc.memory.flash import FlashReadOptions
from dipc.options import MOST_SEED, Flag, Options, TextSpec
from dipc.pipeline.lexer import listed

if TYPE_CHECKING:
    from dipc.hardware.device import Device
    from dipc.text import Text

    GivenText = Text | str
    Hardware = str | Device
else:
    GivenText = Any
    Hardware = str


def items(text: str) -> tuple[str, ...]:
    """Return the items of a list with commas, such as names and pipelines; there may be none."""
    return tuple(filter(None, listed(text)))


def numbers(option: str) -> Callable[[str], tuple[float, ...]]:
    """Return what reads the numbers of an option's list. It raises UsageError for anything else."""

    def read(text: str) -> tuple[float, ...]:
        try:
            return tuple(float(item) for item in items(text))
        except ValueError:
            raise UsageError(f"{option} {text!r} is no list of numbers such as 1,0.5,0.25") from None

    return read


def _read(file: str) -> Text:
    from dipc.text import read_text

    return read_text(Path(file))


@dataclass(frozen=True)
class MeasuredText(TextSpec):
    """The text that programs are measured on."""

    text: Annotated[
        GivenText | None,
        Flag("UTF-8 text; by default the sample that comes with dipc.", metavar="FILE", parse=_read),
    ] = None
    """By default the sample that comes with dipc."""


@dataclass(frozen=True)
class Preparation(Options):
    """Preparation of a comparison's rows: a calibration, and adapters."""

    calibration: Annotated[str | Path | None, Flag("What `dipc calibrate` wrote for this model.", metavar="FILE")] = (
        None
    )
    """A file of `calibrate`, for the methods that need one."""
    calibration_text: Annotated[
        GivenText | None,
        Flag("Text to make the calibration from, once; not the test's.", metavar="FILE", parse=_read),
    ] = None
    """Text to make it from instead; that is done once, and the file kept in the folder."""
    calibration_tokens: Annotated[int | None, Flag("Use only so many tokens of that text.", metavar="N", min=2)] = (
        131_072
    )
    """Use only so many tokens of that text."""
    lora: Annotated[
        bool, Flag("Also train adapters, for each density its own: dip+lora and cats+lora.", name="--lora", bare=True)
    ] = False
    """Also train adapters for the rows `dip+lora` and `cats+lora`, each density its own."""
    train_text: Annotated[
        GivenText | None,
        Flag("Text to train them on; by default the calibration's.", metavar="FILE", parse=_read),
    ] = None
    """What they are trained on; by default the calibration's text."""
    rank: Annotated[int, Flag("Of the adapters.", metavar="N", min=1)] = 32
    """Of the adapters."""
    iterations: Annotated[int, Flag("Of the training of each.", metavar="N", min=1)] = 1000
    """Of the training of each."""
    seed: Annotated[int, Flag("Of calibration, training and tasks.", metavar="N", min=0, max=MOST_SEED)] = 0
    """Of calibration, training and tasks."""

    def __post_init__(self) -> None:
        if self.calibration is not None and self.calibration_text is not None:
            raise UsageError("give a calibration or a text to make it from, not both")


@dataclass(frozen=True)
class AccuracyOptions(Options):
    """The tasks of a comparison, for accuracy beside perplexity."""

    tasks: Annotated[
        Sequence[str], Flag("Also accuracy: tasks such as mmlu,hellaswag.", metavar="LIST", parse=items)
    ] = ()
    """Of the LM Evaluation Harness."""
    task_data: Annotated[
        str | Path | None, Flag("The tasks' data as local files, instead of the hub's.", metavar="DIR")
    ] = None
    """A folder with the tasks' data; nothing is asked of the hub then."""
    fewshot: Annotated[int | None, Flag("Examples before each question.", metavar="N", min=0)] = None
    """Examples before each question, as for `run_tasks`."""
    limit: Annotated[int | None, Flag("Questions of each task.", metavar="N", min=1)] = None
    """Only the first so many questions of each task."""


@dataclass(frozen=True)
class DeviceGrid(Options):
    """The devices of a study: one, with every DRAM, flash and policy."""

    hardware: Annotated[Hardware, Flag("A device's name or file.", metavar="DEVICE", name="--hw")] = "a18"
    """A device's name, file, or the device."""
    policies: Annotated[
        Sequence[str], Flag("Eviction policies (`dipc policies list`).", metavar="LIST", name="--policy", parse=items)
    ] = ("lfu",)
    """Eviction policies; cache-aware methods leave out what knows the future or caches nothing."""
    dram: Annotated[
        Sequence[str], Flag('Sizes: "2 GB,4 GB", or "50%" of the dense model.', metavar="LIST", parse=items)
    ] = ()
    """Sizes such as "4 GB", or shares of the model such as "50%"; by default what the device has."""
    flash: Annotated[Sequence[str], Flag('Bandwidths: "0.5 GB/s,1 GB/s".', metavar="LIST", parse=items)] = ()
    """Bandwidths such as "1 GB/s"; by default the device's."""
    context: Annotated[
        int | None, Flag("Positions of KV cache; by default the context, at most 2048.", metavar="N", min=0)
    ] = None
    """Positions of KV cache in DRAM; by default the model's context, at most 2,048. The paper counts none."""
    bits_per_weight: Annotated[
        float | None, Flag("Width of a stored weight with its scales (INT4: 4.25).", metavar="X")
    ] = None
    """Width of a stored weight, scales included; by default the checkpoint's."""
    reads: FlashReadOptions | None = None
    """How missed units are read from flash; by default each by itself."""


@dataclass(frozen=True)
class StudySearch(Options):
    """The search of a study, besides the densities that are listed."""

    gammas: Annotated[
        Sequence[float],
        Flag(
            "Penalties of cache-aware methods, to begin with.", metavar="LIST", name="--gamma", parse=numbers("--gamma")
        ),
    ] = (0.1, 0.2, 0.5)
    """To begin with, of cache-aware methods whose pipeline says none; beside the best ones it searches."""
    max_ppl_increase: Annotated[
        Sequence[str | float],
        Flag("Find the fastest within 0.2,0.5 of the dense perplexity, or 5% of it.", metavar="LIST", parse=items),
    ] = ()
    """Targets: perplexity over the dense model's, 0.2, or a share of it, "5%"."""
    step: Annotated[
        float, Flag("Grid on which densities between the listed are searched; 0 searches nothing.", metavar="X")
    ] = 0.02
    """Densities are searched between those that were given, on a grid of this step; 0 searches them and gammas not."""


@dataclass(frozen=True)
class MeasureOptions(MeasuredText):
    """The measuring of a study's runs."""

    calibration: Annotated[str | Path | None, Flag("What `dipc calibrate` wrote for this model.", metavar="FILE")] = (
        None
    )
    """A file of `calibrate`, for the methods that need one."""
    warmup: Annotated[
        int | None, Flag("Tokens that fill the caches first; by default a quarter.", metavar="N", min=0)
    ] = None
    """Tokens that fill the caches before one is counted; by default a quarter of the trace."""


@dataclass(frozen=True)
class ActivityMeasure(MeasureOptions):
    """The measuring of a study's runs, or the drawing of their activity where the model has no weights."""

    seed: Annotated[int, Flag("Of made-up activity.", metavar="N", min=0, max=MOST_SEED)] = 0
    """Of activity that is made up."""


@dataclass(frozen=True)
class StudyRuns(Options):
    """The place where the runs of a study are made, and kept."""

    out: str | Path | None = None
    """The folder that keeps everything; by default nothing is kept."""
    jobs: Annotated[int, Flag("Processes that run the model.", metavar="N", min=1)] = 1
    """Processes that run the model; more than one want the model to be a name or a path."""
    cluster: Annotated[str | None, Flag("ray: run the model on a Ray cluster instead.", metavar="NAME")] = None
    """`ray` makes the runs on a Ray cluster instead."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"jobs is {self.jobs}; it must be at least 1")


@dataclass(frozen=True)
class PlanBudget(MemoryBudget):
    """The memory of the device that a plan is for."""

    policy: Annotated[str | None, Flag("Eviction policy of the weight cache.", metavar="NAME")] = "lfu"
    """Of the weight cache."""


@dataclass(frozen=True)
class PlanChoices(Options):
    """The choices of a plan."""

    max_ppl_increase: Annotated[
        str | float, Flag("Perplexity that may be lost: 0.2, or 5% of the dense model's.", metavar="X", parse=str)
    ] = "5%"
    """Perplexity over the dense model's: 0.2, or a share of it, "5%"."""
    methods: Annotated[str | Sequence[str], Flag("To choose from.", metavar="LIST", parse=items)] = (
        "dip,dip-ca,dip-ca+shared"
    )
    """Names or pipelines."""
    densities: Annotated[
        Sequence[float], Flag("To begin with.", metavar="LIST", name="--density", parse=numbers("--density"))
    ] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    """To begin with; between them it searches."""
    gammas: Annotated[
        Sequence[float], Flag("To begin with.", metavar="LIST", name="--gamma", parse=numbers("--gamma"))
    ] = (0.1, 0.2, 0.5)
    """Of cache-aware methods; between them it searches, together with the density."""
    step: Annotated[
        float, Flag("Grid on which densities between the listed are searched; 0 searches none.", metavar="X")
    ] = 0.02
    """Of the grid on which densities are searched; 0 searches none."""
