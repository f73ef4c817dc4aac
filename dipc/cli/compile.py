"""`dipc compile`: a model and a pipeline become an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import ModelOptions, grouped
from dipc.cli.terminal import show, show_json, working
from dipc.documents import JsonObject
from dipc.errors import UnknownName, UsageError
from dipc.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from dipc.ir.program import Program
    from dipc.pipeline.pass_ import Pass
    from dipc.pipeline.runner import Compiled


@dataclass(frozen=True)
class CompileFlags(Options):
    """Options of what is shown and checked on the way, and what is accepted."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the passes with all options; compile and write nothing.")
    ] = False
    dump_after: Annotated[
        str | None,
        typer.Option("--dump-after", metavar="[PASS]", help="Print the program after that pass, or after each."),
    ] = None
    allow_noop: Annotated[bool, typer.Option("--allow-noop", help="Accept a pass that finds nothing to rewrite.")] = (
        False
    )
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each pass's numbers against its stated tolerance.")
    ] = False
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What results call the model.")] = None


@grouped
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="demo, smollm2, a folder, a GGUF file, a Hugging Face id, or a config.json (no weights).",
        ),
    ],
    passes: Annotated[
        str, typer.Option("--passes", "-p", metavar="TEXT", help="For example 'dip-ca{density=0.5 gamma=0.2}'.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT", help="The folder to write.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="What `dipc calibrate` wrote, for passes that take it."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="NAME", help="Also write what this backend runs, such as onnx, to OUT/NAME."),
    ] = None,
    check: CompileFlags = CompileFlags(),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Compile a model with passes into a folder."""
    from dipc.pipeline.runner import resolve, with_calibration
    from dipc.pipeline.text import parse_pipeline
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    ordered = resolve(parse_pipeline(passes))
    if calibration is not None:
        ordered = with_calibration(ordered, str(calibration))
    _check_dump(check.dump_after, ordered)
    if check.dry_run:
        return _plan(model, ordered, common.trust_remote_code, common.json)
    if out is None:
        raise UsageError("compile: give -o OUT, the folder to write, or --dry-run")
    from dipc import api
    from dipc.backends import get_backend
    from dipc.files import check_output

    check_output(out)
    if backend is not None:
        get_backend(backend, "export")
    with working(f"capturing {model}") as say:
        program = api.capture(model, **common.capture, name=check.name)
        result, texts = _compiled(program, ordered, check.allow_noop, check.verify, say)
        say(f"writing {out}")
        if backend is None:
            api.save(result, out, dumps=texts)
        else:
            _save_with_export(result, backend, out, texts)
    dumps = {n: t for n, t in texts.items() if check.dump_after == "all" or n.partition("-")[2] == check.dump_after}
    _print(result, out, dumps, check.verify, common.json)
    return None


def _compiled(
    program: Program, passes: list[Pass], allow_noop: bool, verify: bool, say: Callable[[str], None]
) -> tuple[Compiled, dict[str, str]]:
    """Run the passes, saying which; with the program's text after each."""
    from dipc import api
    from dipc.artifact.writer import dump_name

    texts = {dump_name(0, "capture"): program.text()}
    say(f"{passes[0].name} on {program.info.name}")

    def watch(index: int, item: Pass, after: Program) -> None:
        texts[dump_name(index + 1, item.name)] = after.text()
        if index + 1 < len(passes):
            say(f"{passes[index + 1].name} on {program.info.name}")

    return api.compile(program, passes, allow_noop=allow_noop, check_numerics=verify, watch=watch), texts


def _save_with_export(result: Compiled, backend: str, out: Path, texts: dict[str, str]) -> None:
    """Both or neither: the export, which is more likely to fail, is made first, beside the artifact's place."""
    import secrets
    import shutil

    from dipc import api

    staging = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    try:
        api.export(result, backend, staging)
        api.save(result, out, dumps=texts)
        staging.rename(out / backend)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_dump(dump_after: str | None, passes: list[Pass]) -> None:
    names = ["all", *(p.name for p in passes)]
    if dump_after is not None and dump_after not in names:
        raise UnknownName("pass in this pipeline", dump_after, names)


def _plan(model: str, passes: list[Pass], trust_remote_code: bool, json: bool) -> None:
    from dipc.cli.model import describe_model
    from dipc.pipeline.text import pipeline_text
    from dipc.report import passes as report

    found = describe_model(model, trust_remote_code)
    text = pipeline_text(passes)
    if json:
        show_json(report.plan_dict(found, text, passes))
    else:
        show(report.plan_tables(found, text, passes))


def _print(result: Compiled, out: Path, dumps: dict[str, str], verify: bool, json: bool) -> None:
    from dipc.quantities import format_bytes
    from dipc.report.compiled import compiled_dict, pass_table
    from dipc.report.table import stack

    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    if json:
        document: JsonObject = {**compiled_dict(result), "out": str(out), "out_bytes": size}
        return show_json({**document, "dumps": dumps} if dumps else document)
    for name, text in dumps.items():
        typer.echo(f"# {name}\n{text}")
    info = result.program.info
    show(stack(pass_table(f"{info.name} ({info.family}, {info.layers} layers)", result.log)))
    typer.echo("")
    if verify and not info.has_weights:
        typer.echo("the model has no weights: its structure was checked, its numbers were not")
    typer.echo(f"wrote {out} ({format_bytes(size)})")
    return None
