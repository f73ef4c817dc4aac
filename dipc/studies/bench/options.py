"""Options of the contests, each declared once for Python and the command line.

This module is imported by `dipc --help`, so it imports nothing that is slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from dipc.options import MOST_SEED, Flag, Options, listed, numbers

DENSE = "dense"
"""The model without a method, among the passes of a contest."""

Seed = Annotated[int, Flag("Of weights and inputs.", "N", min=0, max=MOST_SEED)]
Methods = Annotated[
    tuple[str, ...],
    Flag('"dense" and methods, as `compile --passes` takes them.', "LIST", "--passes", parse=partial(listed, "passes")),
]
RunningBackend = Annotated[str, Flag("What runs them (`dipc backends list`).", "NAME")]


@dataclass(frozen=True)
class TurnOptions(Options):
    """The turns that candidates take."""

    threads: Annotated[int | None, Flag("Of each contender; by default physical cores.", "N", min=1)] = None
    rounds: Annotated[int, Flag("Turns that each contender takes.", "N", min=1)] = 15
    calls: Annotated[int, Flag("Timed calls in a turn.", "N", min=1)] = 5


@dataclass(frozen=True)
class ReplayTurnOptions(TurnOptions):
    """The turns of candidates on one core; a whole model takes the threads."""

    threads: Annotated[int | None, Flag("With --model: sites at a time; by default physical cores.", "N", min=1)] = None


@dataclass(frozen=True)
class KernelOptions(Options):
    """The contest of one gated MLP."""

    d_model: Annotated[int, Flag("Inputs of the MLP.", "N")] = 4096
    d_ff: Annotated[int, Flag("Hidden values of the MLP.", "N")] = 14336
    densities: Annotated[
        tuple[float, ...],
        Flag("Kept shares, such as 1,0.5,0.25.", "LIST", "--density", parse=partial(numbers, "density")),
    ] = (1.0, 0.5, 0.25)
    formats: Annotated[
        tuple[str, ...],
        Flag(
            "Of the weights: float32, float16, bfloat16, int8, int4.",
            "LIST",
            "--format",
            parse=partial(listed, "format"),
        ),
    ] = ("float32", "int4")
    tokens: Annotated[int, Flag("Of a call; above 1, prefill is compared.", "N", min=1)] = 1
    group: Annotated[int, Flag("Weights that share a scale.", "N")] = 128
    axis: Annotated[str, Flag("Groups along inputs (GPTQ) or outputs (a unit).", "NAME")] = "inputs"
    seed: Seed = 0


@dataclass(frozen=True)
class DecodeOptions(Options):
    """The contest of whole models, token by token."""

    config: Annotated[Path | None, Flag("A config.json; by default the shape of Llama-3.2-1B.", "FILE")] = None
    passes: Methods = (DENSE, "dip{density=0.5}", "dip-ca{density=0.5}")
    formats: Annotated[
        tuple[str, ...],
        Flag(
            '"float32", or passes that quantise, such as int4{group=32}.',
            "LIST",
            "--format",
            parse=partial(listed, "format"),
        ),
    ] = ("float32", "int4")
    prompt: Annotated[int, Flag("Tokens before the first that is timed.", "N", min=1)] = 64
    seed: Seed = 0
    folder: Annotated[Path | None, Flag("Keep the exported models here, and take them from here.", "DIR")] = None
    backend: RunningBackend = "onnx"


@dataclass(frozen=True)
class EvalOptions(Options):
    """The contest of measurements of perplexity."""

    model: str = "demo"
    passes: Methods = (DENSE, "dip", "dip-ca")
    seq_len: Annotated[int | None, Flag("Tokens of a window; by default the context, at most 2048.", "N", min=2)] = None
    max_tokens: Annotated[int, Flag("Tokens that a call measures.", "N", min=2)] = 2048
    seed: Seed = 0
    backend: RunningBackend = "eager"
    device: Annotated[
        str | None, Flag("Of torch: auto, cpu, cuda or cuda:N; beside a GPU stands the CPU's perplexity.", "NAME")
    ] = None


@dataclass(frozen=True)
class ReplayOptions(Options):
    """The contest of replays of one site, or the replay of a whole model."""

    units: Annotated[int, Flag("Of the site.", "N")] = 4096
    tokens: Annotated[int | None, Flag("Of the trace: 1024, or 16384 with --model, if not given.", "N")] = None
    densities: Annotated[
        tuple[float, ...],
        Flag("Shares of the units that a token touches.", "LIST", "--density", parse=partial(numbers, "density")),
    ] = (0.25, 0.5, 0.75)
    policies: Annotated[
        tuple[str, ...] | None,
        Flag("Of eviction: all, or lfu with --model, if not given.", "LIST", parse=partial(listed, "policies")),
    ] = None
    capacities: Annotated[
        tuple[float, ...],
        Flag(
            "Shares of the units that fit; one without --model.",
            "LIST",
            "--capacity",
            parse=partial(numbers, "capacity"),
        ),
    ] = (0.5,)
    model: Annotated[str | None, Flag("Replay through all of its sites, and measure the memory too.", "MODEL")] = None
    passes: Annotated[str, Flag("With --model: what makes the sites.", "TEXT")] = "dip"
    seed: Seed = 0
