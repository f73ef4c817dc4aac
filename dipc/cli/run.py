"""`dipc run`: write text with a program."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.backend import BackendName, Device, NoKernels, open_running
from dipc.cli.terminal import MOST_SEED, Debug, Dtype, Json, Plugins, Quiet, Target, TrustRemoteCode, show_json

if TYPE_CHECKING:
    from dipc.evaluation.generation import Generation


def command(
    target: Target,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Stop after so many tokens.")] = 40,
    temperature: Annotated[
        float, typer.Option(metavar="X", min=0, help="0 takes the likeliest token; above 0 samples.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of the sampling.")] = 0,
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
    """Continue a prompt.

    The text goes to stdout as it is written, a summary to stderr.
    """
    from dipc import api

    model, options = open_running(target, backend, no_kernels, device, dtype=dtype, trust_remote_code=trust_remote_code)
    made = api.generate(
        model,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        on_text=None if json else _stream,
        **options,
    )
    if json:
        return show_json(_document(made))
    typer.echo("")
    if not quiet:
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
