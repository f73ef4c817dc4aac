"""`dipc bench`: contests of speed on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dipc.cli.terminal import Debug, Json, Plugins, Quiet, counting, show, show_json
from dipc.errors import UsageError
from dipc.options import MOST_SEED

if TYPE_CHECKING:
    from rich.console import RenderableType

R = TypeVar("R")

app = typer.Typer(no_args_is_help=True, help="Measure the speed on this machine, side by side with others.")

Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="Of each contender; by default physical cores.")]
Rounds = Annotated[int, typer.Option(metavar="N", min=1, help="Turns that each contender takes.")]
Calls = Annotated[int, typer.Option(metavar="N", min=1, help="Timed calls in a turn.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of weights and inputs.")]


@app.command("kernels")
def kernels(
    d_model: Annotated[int, typer.Option(metavar="N", help="Inputs of the MLP.")] = 4096,
    d_ff: Annotated[int, typer.Option(metavar="N", help="Hidden values of the MLP.")] = 14336,
    density: Annotated[str, typer.Option(metavar="LIST", help="Kept shares, such as 1,0.5,0.25.")] = "1,0.5,0.25",
    format: Annotated[
        str, typer.Option(metavar="LIST", help="Of the weights: float32, float16, bfloat16, int8, int4.")
    ] = "float32,int4",
    group: Annotated[int, typer.Option(metavar="N", help="Weights that share a scale.")] = 128,
    axis: Annotated[
        str, typer.Option(metavar="NAME", help="Groups along inputs (GPTQ) or outputs (a unit).")
    ] = "inputs",
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Of a call; above 1, prefill is compared.")] = 1,
    threads: Threads = None,
    rounds: Rounds = 15,
    calls: Calls = 5,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure one gated MLP, sparse beside everybody's dense, and the memory's bandwidth beside both."""
    from dipc.report.bench_kernels import kernels_dict, kernels_tables
    from dipc.studies.bench.contest import Rules
    from dipc.studies.bench.kernels import KernelBench
    from dipc.studies.bench.machine import physical_cores

    bench = KernelBench(d_model, d_ff, densities(density), _listed("format", format), tokens, group, axis, seed)
    with counting("turns") as progress:
        result = bench.run(Rules(threads or physical_cores(), rounds, calls), progress)
    _show(result, json, kernels_dict, kernels_tables)


def _listed(option: str, text: str) -> tuple[str, ...]:
    """Return the items of a list, each once. UsageError for an empty one."""
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise UsageError(f"--{option} {text!r} lists nothing")
    return items


def densities(text: str, option: str = "density") -> tuple[float, ...]:
    """Return the numbers of a list, each once. UsageError for anything else."""
    try:
        return tuple(dict.fromkeys(float(item) for item in _listed(option, text)))
    except ValueError:
        raise UsageError(f"--{option} {text!r} is no list of numbers such as 1,0.5,0.25") from None


@app.command("decode")
def decode(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A config.json; by default the shape of Llama-3.2-1B.")
    ] = None,
    passes: Annotated[
        str, typer.Option(metavar="LIST", help='"dense" and methods, as `compile --passes` takes them.')
    ] = "dense,dip{density=0.5},dip-ca{density=0.5}",
    format: Annotated[
        str, typer.Option(metavar="LIST", help='"float32", or passes that quantise, such as int4{group=32}.')
    ] = "float32,int4",
    prompt: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens before the first that is timed.")] = 64,
    threads: Threads = None,
    rounds: Rounds = 15,
    calls: Calls = 5,
    seed: Seed = 0,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the exported models here, and take them from here.")
    ] = None,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure tokens per second with a KV cache: a model of random weights, dense and sparse, in ONNX Runtime.

    A format's models need about five times their bytes of disk, and memory for two of them.
    """
    from dipc.registry import load_installed_plugins
    from dipc.report.bench_decode import decode_dict, decode_tables
    from dipc.studies.bench.contest import Rules
    from dipc.studies.bench.decode import LLAMA_3_2_1B, DecodeBench
    from dipc.studies.bench.machine import physical_cores

    lists = _listed("passes", passes), _listed("format", format)
    load_installed_plugins()
    bench = DecodeBench(config or LLAMA_3_2_1B, *lists, prompt, seed, folder, tuple(plugin or ()))
    with counting("turns") as progress:
        result = bench.run(Rules(threads or physical_cores(), rounds, calls), progress)
    _show(result, json, decode_dict, decode_tables)


@app.command("eval")
def evaluation(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="As `compile` takes it; a config.json gets random weights and tokens."),
    ] = "demo",
    passes: Annotated[
        str, typer.Option(metavar="LIST", help='"dense" and methods, as `compile --passes` takes them.')
    ] = "dense,dip,dip-ca",
    seq_len: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Tokens of a window; by default the context, at most 2048.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens that a call measures.")] = 2048,
    threads: Threads = None,
    rounds: Rounds = 7,
    calls: Calls = 1,
    seed: Seed = 0,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how much longer the perplexity of sparsified programs takes than that of the dense one, in torch."""
    from dipc.registry import load_installed_plugins
    from dipc.report.bench_eval import eval_dict, eval_tables
    from dipc.studies.bench.contest import Rules
    from dipc.studies.bench.eval import EvalBench
    from dipc.studies.bench.machine import physical_cores

    load_installed_plugins()
    bench = EvalBench(model, _listed("passes", passes), seq_len, max_tokens, seed, tuple(plugin or ()))
    with counting("turns") as progress:
        result = bench.run(Rules(threads or physical_cores(), rounds, calls, warmup=1), progress)
    _show(result, json, eval_dict, eval_tables)


@app.command("replay")
def replay(
    units: Annotated[int, typer.Option(metavar="N", help="Of the site.")] = 4096,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Of the trace: 1024, or 16384 with --model, if not given.")
    ] = None,
    density: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the units that a token touches.")
    ] = "0.25,0.5,0.75",
    policies: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of eviction: all, or lfu with --model, if not given.")
    ] = None,
    capacity: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the units that fit; one without --model.")
    ] = "0.5",
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Replay through all of its sites, and measure the memory too."),
    ] = None,
    passes: Annotated[str, typer.Option(metavar="TEXT", help="With --model: what makes the sites.")] = "dip",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --model: sites at a time; by default physical cores.")
    ] = None,
    rounds: Rounds = 7,
    calls: Calls = 3,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how fast masks run through caches, on one core beside libCacheSim, and the closed loop beside torch's.

    With --model, run made-up masks through every site of a model instead, on all cores, under the given policies.
    """
    shares = densities(capacity, "capacity")
    if model is not None:
        cases = tuple((policy, share) for policy in _listed("policies", policies or "lfu") for share in shares)
        _replay_model(model, 16384 if tokens is None else tokens, cases, threads, passes, seed, json)
        return
    from dipc.report.bench_replay import replay_dict, replay_tables
    from dipc.studies.bench.contest import Rules
    from dipc.studies.bench.replay import ReplayBench

    if len(shares) != 1:
        raise UsageError(f"--capacity {capacity!r} must be one share without --model")
    names = ReplayBench.policies if policies is None else _listed("policies", policies)
    bench = ReplayBench(units, 1024 if tokens is None else tokens, densities(density), names, shares[0], seed)
    with counting("turns") as progress:
        result = bench.run(Rules(1, rounds, calls, warmup=1), progress)
    _show(result, json, replay_dict, replay_tables)


def _replay_model(
    model: str,
    tokens: int,
    cases: tuple[tuple[str, float], ...],
    threads: int | None,
    passes: str,
    seed: int,
    json: bool,
) -> None:
    from dipc.report.bench_replay import model_replay_dict, model_replay_tables
    from dipc.studies.bench.machine import physical_cores
    from dipc.studies.bench.replay_model import ModelReplayBench

    result = ModelReplayBench(model, tokens, cases, threads or physical_cores(), passes, seed).run()
    _show(result, json, model_replay_dict, model_replay_tables)


def _show(
    result: R, json: bool, to_dict: Callable[[R], dict[str, Any]], to_tables: Callable[[R], list[RenderableType]]
) -> None:
    if json:
        show_json(to_dict(result))
    else:
        show(to_tables(result))
