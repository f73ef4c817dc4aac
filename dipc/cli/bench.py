"""`dipc bench`: contests of speed on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from dipc.cli.options import OutputOptions, grouped
from dipc.cli.terminal import counting, show, show_json
from dipc.errors import UsageError
from dipc.studies.bench.options import (
    DecodeOptions,
    EvalOptions,
    KernelOptions,
    ReplayOptions,
    ReplayTurnOptions,
    TurnOptions,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dipc.studies.bench.contest import Progress, Rules

R = TypeVar("R")
Found = TypeVar("Found", covariant=True)

app = typer.Typer(no_args_is_help=True, help="Measure the speed on this machine, side by side with others.")


class Bench(Protocol[Found]):
    """The rules of a contest."""

    def run(self, rules: Rules, progress: Progress = ...) -> Found:
        """Return the result."""


@app.command("kernels")
@grouped
def kernels(
    options: KernelOptions = KernelOptions(),
    turns: TurnOptions = TurnOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure one gated MLP, sparse beside everybody's dense, and the memory's bandwidth beside both."""
    from dipc.report.bench_kernels import kernels_dict, kernels_tables
    from dipc.studies.bench.kernels import KernelBench

    result = _run(KernelBench(**vars(options)), turns)
    _show(result, output, kernels_dict, kernels_tables)


@app.command("decode")
@grouped
def decode(
    options: DecodeOptions = DecodeOptions(),
    turns: TurnOptions = TurnOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure tokens per second with a KV cache: a model of random weights, dense and sparse, in ONNX Runtime.

    A format's models need about five times their bytes of disk, and memory for two of them.
    """
    from dipc.registry import load_installed_plugins
    from dipc.report.bench_decode import decode_dict, decode_tables
    from dipc.studies.bench.decode import LLAMA_3_2_1B, DecodeBench

    load_installed_plugins()
    given = {**vars(options), "config": options.config or LLAMA_3_2_1B}
    result = _run(DecodeBench(**given, plugins=tuple(output.plugin or ())), turns)
    _show(result, output, decode_dict, decode_tables)


@app.command("eval")
@grouped
def evaluation(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="As `compile` takes it; a config.json gets random weights and tokens."),
    ] = EvalOptions.model,
    options: EvalOptions = EvalOptions(),
    turns: TurnOptions = TurnOptions(rounds=7, calls=1),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure how much longer the perplexity of sparsified programs takes than that of the dense one, in torch."""
    from dipc.registry import load_installed_plugins
    from dipc.report.bench_eval import eval_dict, eval_tables
    from dipc.studies.bench.eval import EvalBench

    load_installed_plugins()
    given = {**vars(options), "model": model}
    result = _run(EvalBench(**given, plugins=tuple(output.plugin or ())), turns, warmup=1)
    _show(result, output, eval_dict, eval_tables)


@app.command("replay")
@grouped
def replay(
    options: ReplayOptions = ReplayOptions(),
    turns: ReplayTurnOptions = ReplayTurnOptions(rounds=7, calls=3),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure how fast masks run through caches, on one core beside libCacheSim, and the closed loop beside torch's.

    With --model, run made-up masks through every site of a model instead, on all cores, under the given policies.
    """
    if options.model is not None:
        return _replay_model(options.model, options, turns.threads, output)
    from dipc.report.bench_replay import replay_dict, replay_tables
    from dipc.studies.bench.replay import ReplayBench

    if len(options.capacities) != 1:
        shares = ",".join(f"{share:g}" for share in options.capacities)
        raise UsageError(f"--capacity '{shares}' must be one share without --model")
    tokens = ReplayBench.tokens if options.tokens is None else options.tokens
    policies = options.policies or ReplayBench.policies
    bench = ReplayBench(options.units, tokens, options.densities, policies, options.capacities[0], options.seed)
    return _show(_run(bench, turns, threads=1, warmup=1), output, replay_dict, replay_tables)


def _replay_model(model: str, options: ReplayOptions, threads: int | None, output: OutputOptions) -> None:
    from dipc.report.bench_replay import model_replay_dict, model_replay_tables
    from dipc.studies.bench.machine import physical_cores
    from dipc.studies.bench.replay_model import ModelReplayBench

    tokens = 16384 if options.tokens is None else options.tokens
    cases = tuple((policy, share) for policy in options.policies or ("lfu",) for share in options.capacities)
    bench = ModelReplayBench(model, tokens, cases, threads or physical_cores(), options.passes, options.seed)
    _show(bench.run(), output, model_replay_dict, model_replay_tables)


def _run(bench: Bench[R], turns: TurnOptions, *, threads: int | None = None, warmup: int = 2) -> R:
    """Hold the contest, by default with as many threads for each as are asked for, or as there are cores."""
    from dipc.studies.bench.contest import Rules
    from dipc.studies.bench.machine import physical_cores

    rules = Rules(threads or turns.threads or physical_cores(), turns.rounds, turns.calls, warmup)
    with counting("turns") as progress:
        return bench.run(rules, progress)


def _show(
    result: R,
    output: OutputOptions,
    to_dict: Callable[[R], dict[str, Any]],
    to_tables: Callable[[R], list[RenderableType]],
) -> None:
    if output.json:
        show_json(to_dict(result))
    else:
        show(to_tables(result))
