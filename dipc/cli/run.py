"""`dipc run`: write text with a program."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.backends import RunOptions
from dipc.cli.backend import open_running
from dipc.cli.options import ModelOptions, grouped
from dipc.cli.terminal import Target, show_json
from dipc.evaluation.sampling import SamplingOptions

if TYPE_CHECKING:
    from dipc.evaluation.generation import Generation


@grouped
def command(
    target: Target,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The text to continue.")],
    sampling: SamplingOptions = SamplingOptions(),
    runner: RunOptions = RunOptions(device="auto"),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Continue a prompt.

    The text goes to stdout as it is written, a summary to stderr.
    """
    from dipc import api
    from dipc.text import normalized

    running, runner = open_running(target, runner, common.capture)
    # A prompt is often a file's content, put there by the shell.
    prompt = normalized(prompt)
    made = api.generate(running, prompt, sampling=sampling, runner=runner, on_text=None if common.json else _stream)
    if common.json:
        return show_json(_document(made))
    typer.echo("")
    if not common.quiet:
        typer.echo(_summary(made), err=True)
    return None


def _stream(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _document(made: Generation) -> dict[str, object]:
    from dipc.documents import document

    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return document("generation", **fields, tokens_per_second=made.tokens_per_second)


def _summary(made: Generation) -> str:
    from dipc.quantities import number

    speed = f"{number(made.tokens_per_second, 3)} tokens/s on this machine" if made.new_tokens > 1 else "one token"
    method = made.method
    kind = "dense" if method.name == "dense" else f"{method.name}, density {method.density:.3g}, scope {method.scope}"
    kind += "" if made.backend == "eager" else f", {made.backend}"
    return f"{kind}: {made.new_tokens} tokens after a prompt of {made.prompt_tokens}, {speed}"
