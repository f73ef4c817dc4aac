"""`dipc finetune`: train adapters that win back what a method loses."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import ModelOptions, grouped
from dipc.cli.terminal import counting, show, show_json, working
from dipc.tuning.options import TrainingOptions

if TYPE_CHECKING:
    from dipc.tuning.lora.finetune import Finetuned


@grouped
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The dense model: demo, smollm2, a folder, a GGUF file, a Hugging Face id."
        ),
    ],
    passes: Annotated[
        str, typer.Option("--passes", "-p", metavar="TEXT", help="The method, for example 'dip{density=0.5}'.")
    ],
    text: Annotated[Path, typer.Option(metavar="FILE", help="UTF-8 text to train on; its last tenth is held out.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write.")],
    training: TrainingOptions = TrainingOptions(),
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `dipc calibrate` wrote, for methods that need it.")
    ] = None,
    common: ModelOptions = ModelOptions(),
) -> None:
    """Train LoRA adapters that win back what a method loses.

    They learn by distillation from the dense model. The folder is a PEFT checkpoint; `compile` folds it in with the
    pass `fuse-lora`. A training that was cut off goes on with the same command, to the same result.
    """
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    from dipc.files import check_output
    from dipc.pipeline.text import parse_pipeline
    from dipc.text import read_text
    from dipc.tuning.lora.adapter import RECORD, peft_module

    given, ordered = read_text(text), parse_pipeline(passes)
    if not training.resume or not (out / RECORD).is_file():
        check_output(out)
    peft_module()
    from dipc import api
    from dipc.quantities import number
    from dipc.report.finetuned import finetuned_dict, finetuned_tables
    from dipc.report.table import stack

    with working(f"capturing {model}"):
        program = api.capture(model, **common.capture)
    losses: list[float] = []
    with counting(lambda: f"KL {number(sum(losses[-20:]) / len(losses[-20:]), 3)}" if losses else "KL") as progress:
        result = api.finetune(
            program,
            ordered,
            given,
            out,
            training=training,
            calibration=calibration,
            progress=progress,
            watch=losses.append,
        )
    if common.json:
        return show_json({**finetuned_dict(result), "next": _next(model, result)})
    show(stack(*finetuned_tables(result)))
    typer.echo(f"\nwrote {out}\nnext: {_next(model, result)}")
    return None


def _next(model: str, result: Finetuned) -> str:
    """Say what to type next."""
    return f"dipc compile {shlex.quote(model)} --passes {shlex.quote(result.passes)} -o OUT"
