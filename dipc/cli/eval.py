"""`dipc eval`: perplexity and its kin, dense beside sparse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipc.cli.backend import BackendName, Device, NoKernels, open_running
from dipc.cli.tasks import FewShot, Limit, NoDense, TaskData, Tasks, TaskSeed, check_names, check_options, score_tasks
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, Target, TrustRemoteCode, counting, show, show_json
from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.ir.program import Program

TextFile = Annotated[
    Path | None, typer.Option("--text", metavar="FILE", help="UTF-8 text; by default the sample that comes with dipc.")
]
SeqLen = Annotated[
    int | None,
    typer.Option("--seq-len", metavar="N", min=2, help="Tokens of a window; by default the context, at most 2048."),
]


def command(
    target: Target,
    text: TextFile = None,
    seq_len: SeqLen = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Use only so many tokens from the start.")
    ] = None,
    prefill: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With decode: tokens of each window to leave dense; by default half."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which tokens are sparse and scored: dip, decode, last-fraction, teal, wina."
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(metavar="X", help="With last-fraction: share of each window, at its end, to sparsify."),
    ] = None,
    save_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save which units each token touched, for `estimate --trace`.")
    ] = None,
    tasks: Tasks = None,
    task_data: TaskData = None,
    fewshot: FewShot = None,
    limit: Limit = None,
    seed: TaskSeed = None,
    no_dense: NoDense = False,
    backend: BackendName = "eager",
    no_kernels: NoKernels = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure perplexity, or scores of tasks, dense beside sparse.

    With the perplexity come bits per byte, distance to the dense model, density and hit rate. With --tasks the LM
    Evaluation Harness asks its questions instead. Both run by the same backend; an exported model by itself has nothing
    beside it.
    """
    of_text: dict[str, Any] = {"--text": text, "--seq-len": seq_len, "--max-tokens": max_tokens, "--prefill": prefill}
    of_text |= {"--protocol": protocol, "--fraction": fraction}
    of_tasks = {
        "--task-data": task_data,
        "--fewshot": fewshot,
        "--limit": limit,
        "--seed": seed,
        "--no-dense": no_dense,
    }
    check_options(tasks, of_tasks, {**of_text, "--save-trace": save_trace})
    if tasks is not None:
        check_names(tasks, task_data)
    if save_trace is not None:
        _check_file(save_trace)
    from dipc.text import read_text

    given = None if text is None else read_text(text)
    model, options = open_running(target, backend, no_kernels, device, dtype=dtype, trust_remote_code=trust_remote_code)
    if tasks is not None:
        options |= {"data": task_data, "fewshot": fewshot, "limit": limit, "seed": seed or 0, "dense": not no_dense}
        return score_tasks(model, tasks, json, trust_remote_code=trust_remote_code, **options)
    from dipc import api
    from dipc.ir.program import Program
    from dipc.report.score import own_score_dict, own_score_table, score_dict, score_table

    extent: dict[str, Any] = {"seq_len": seq_len, "max_tokens": max_tokens, "prefill": prefill}
    extent |= {"protocol": protocol, "fraction": fraction}
    with counting("windows") as progress:
        if not isinstance(model, Program):
            _check_no_trace(target, save_trace)
            own = api.perplexity(model, given, **extent, progress=progress)
            return show_json(own_score_dict(own)) if json else show([own_score_table(own)])
        if save_trace is not None:
            _check_sites(model)
        record = save_trace is not None
        score = api.evaluate(model, given, **extent, record=record, progress=progress, **options)
    if save_trace is not None and score.trace is not None:
        score.trace.save(save_trace)
    return show_json(score_dict(score)) if json else show([score_table(score)])


def _check_no_trace(target: str, save_trace: Path | None) -> None:
    if save_trace is not None:
        raise UsageError(f"eval: --save-trace: {target} is an exported model by itself; name the compiled folder")


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise UsageError(f"eval: --save-trace {file}: this is a folder; name a file")
    if not file.parent.is_dir():
        raise UsageError(f"eval: --save-trace {file}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"eval: --save-trace {file}: the folder {file.parent} cannot be written to")


def _check_sites(program: Program) -> None:
    from dipc.memory.lowering import selections

    if not selections(program):
        raise UsageError(
            f"eval: --save-trace: {program.info.name} selects no units, so it has no trace; compile a method into it"
        )
