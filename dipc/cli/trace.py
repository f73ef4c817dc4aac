"""`dipc trace`: activity traces, recorded or made up, and models of activity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.options import Device, ModelOptions, OutputOptions, TextFile, grouped
from dipc.cli.target import open_target
from dipc.cli.terminal import Debug, Json, counting, show, show_json
from dipc.options import MOST_SEED, TextSpec

app = typer.Typer(no_args_is_help=True, help="Activity traces, recorded or made up.")

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]


@app.command("show")
def show_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace, or a model of activity (.json).")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a trace: where it comes from, and how its units are used.

    Or a model of activity, as `dipc trace fit` writes it.
    """
    if file.suffix == ".json":
        from dipc.memory.synthetic.activity import ActivityModel
        from dipc.report.trace import activity_dict, activity_tables

        activity = ActivityModel.load(file)
        return show_json(activity_dict(activity)) if json else show(activity_tables(activity))
    from dipc.memory.trace import Trace
    from dipc.report.trace import trace_dict, trace_tables

    trace = Trace.load(file, mapped=True)
    return show_json(trace_dict(trace)) if json else show(trace_tables(trace))


@app.command("fit")
@grouped
def fit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="demo, smollm2, a folder, a GGUF file, a Hugging Face id, or a compiled folder."
        ),
    ],
    out: Out,
    text: TextFile = None,
    windows: TextSpec = TextSpec(max_tokens=16_384),
    device: Device = "auto",
    common: ModelOptions = ModelOptions(),
) -> None:
    """Fit a model of activity to a model with weights.

    For `estimate --activity FILE` and `trace make --activity FILE`, of models that have none.
    """
    from dipc.files import check_output_file
    from dipc.text import read_text

    check_output_file(out, new=True)
    given = None if text is None else read_text(text)
    from dipc.ir.placement import choose_device, place
    from dipc.report.trace import activity_dict, activity_tables
    from dipc.tuning.fit_activity import fit_activity

    where = choose_device(device)
    program = place(open_target(model, **common.capture).program, where)
    with counting("windows") as progress:
        made = fit_activity(program, given, windows=windows, progress=progress)
    made.save(out)
    if common.json:
        return show_json({**activity_dict(made), "out": str(out)})
    return show(activity_tables(made, {"written to": str(out)}))


@app.command("make")
@grouped
def make(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A compiled folder, of a config too; it is not run.")],
    out: Out,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to make.")] = 96,
    activity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The model of activity; by default the one of dipc.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of all that is drawn.")] = 0,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Make up a trace, drawn from a model of activity.

    A cache-aware method selects in closed loop, with the cache capacity that the compiled folder has.
    """
    from dipc.files import check_output_file
    from dipc.memory.synthetic import ActivityModel, synthetic_trace
    from dipc.report.trace import trace_dict, trace_tables

    check_output_file(out, new=True)
    drawn = None if activity is None else ActivityModel.load(activity)
    program = open_target(target).program
    with counting("sites") as progress:
        made = synthetic_trace(program, seed, tokens, drawn, progress)
    made.save(out)
    if output.json:
        return show_json({**trace_dict(made), "out": str(out)})
    return show(trace_tables(made, {"written to": str(out)}))
