"""The application: its commands, and what `dipc` does by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from dipc.cli import (
    bench,
    calibrate,
    compare,
    compile,
    env,
    estimate,
    eval,
    explain,
    export,
    finetune,
    hw,
    inspect,
    kinds,
    plan,
    report,
    run,
    study,
    trace,
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        from dipc.version import __version__

        typer.echo(f"dipc {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compile language models for devices whose memory is smaller than the model.

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 internal error, 2 usage, 3 model unsupported or
    nothing matched, 4 verification failed, 5 bad recipe, hardware or artifact file, 6 optional dependency missing.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("compile")(compile.command)
app.command("inspect")(inspect.command)
app.command("explain")(explain.command)
app.command("calibrate")(calibrate.command)
app.command("finetune")(finetune.command)
app.command("run")(run.command)
app.command("eval")(eval.command)
app.command("estimate")(estimate.command)
app.command("compare")(compare.command)
app.command("study")(study.command)
app.command("plan")(plan.command)
app.command("report")(report.command)
app.command("export")(export.command)
for kind in kinds.KINDS:
    app.add_typer(kinds.app_of(kind), name=kind.name)
app.add_typer(trace.app, name="trace")
app.add_typer(hw.app, name="hw")
app.add_typer(bench.app, name="bench")
app.command("env")(env.command)
