"""`dipc eval`: perplexity and its kin, dense beside sparse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.target import open_target
from dipc.cli.terminal import (
    Debug,
    Dtype,
    Json,
    Plugins,
    Quiet,
    Target,
    TrustRemoteCode,
    counting,
    show,
    show_json,
)
from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.program import Program

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
        typer.Option(metavar="N", min=1, help="With scope=decode: tokens of each window to leave dense; half of it."),
    ] = None,
    save_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save which units each token touched, for `estimate --trace`.")
    ] = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure perplexity, dense beside sparse.

    And bits per byte, distance to the dense model, density and hit rate.
    """
    if save_trace is not None:
        _check_file(save_trace)
    from dipc.text import read_text

    given = None if text is None else read_text(text)
    program = open_target(target, dtype=dtype, trust_remote_code=trust_remote_code).program
    if save_trace is not None:
        _check_sites(program)
    from dipc import api
    from dipc.report.score import score_dict, score_table

    with counting("windows") as progress:
        score = api.evaluate(
            program,
            given,
            seq_len=seq_len,
            max_tokens=max_tokens,
            prefill=prefill,
            record=save_trace is not None,
            progress=progress,
        )
    if save_trace is not None and score.trace is not None:
        score.trace.save(save_trace)
    if json:
        show_json(score_dict(score))
    else:
        show([score_table(score)])


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise UsageError(f"eval: --save-trace {file}: this is a folder; name a file")
    if not file.parent.is_dir():
        raise UsageError(f"eval: --save-trace {file}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"eval: --save-trace {file}: the folder {file.parent} cannot be written to")


def _check_sites(program: Program) -> None:
    from dipc.lower import selections

    if not selections(program):
        raise UsageError(
            f"eval: --save-trace: {program.info.name} selects no units, so it has no trace; compile a method into it"
        )
