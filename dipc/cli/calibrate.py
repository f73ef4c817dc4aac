"""`dipc calibrate`: measure a model on text, once, for the methods that need to know it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.options import Device, ModelOptions, TextFile, grouped
from dipc.cli.target import open_target
from dipc.cli.terminal import counting, show, show_json
from dipc.errors import UnknownName
from dipc.options import MOST_SEED, Options, TextSpec
from dipc.tuning.options import PartOptions

if TYPE_CHECKING:
    from dipc.calibration.file import Calibration

SPEED_OVER_S = 600.0
"""The time that is left is told by the speed over so many seconds: a step may take half a minute."""


@dataclass(frozen=True)
class MeasureFlags(Options):
    """The measurements, and where they are made."""

    parts: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Of thresholds,sensitivity,predictors,allocation; by default all."),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of all that is drawn.")] = 0
    device: Device = "auto"
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where a calibration was ended.")] = False


@grouped
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="demo, smollm2, a folder, a GGUF file, a Hugging Face id, or a compiled folder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write (safetensors).")],
    text: TextFile = None,
    windows: TextSpec = TextSpec(max_tokens=131_072),
    options: PartOptions = PartOptions(),
    measured: MeasureFlags = MeasureFlags(),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Measure a model on text for the methods that need it.

    Writes one file with thresholds, sensitivities, predictors and density allocation. It is for that model and all
    that is compiled of it: `compile --calibration FILE`. One that was ended goes on when it is asked for again:
    FILE.unfinished keeps its finished steps until then.
    """
    from dipc.calibration.file import PARTS
    from dipc.files import check_output_file
    from dipc.text import read_text

    check_output_file(out, new=True)
    chosen = PARTS if measured.parts is None else tuple(part.strip() for part in measured.parts.split(","))
    for part in chosen:
        if part not in PARTS:
            raise UnknownName("part of a calibration", part, PARTS)
    given = None if text is None else read_text(text)
    from dipc import api
    from dipc.ir.placement import choose_device, place
    from dipc.tuning.unfinished import folder_beside, remove_steps

    where = choose_device(measured.device)
    program = place(open_target(model, **common.capture).program, where)
    unfinished = folder_beside(out)
    if measured.restart:
        remove_steps(unfinished)
    start, stage = time.perf_counter(), "activations"
    with counting(lambda: stage, over_s=SPEED_OVER_S) as bar:

        def progress(what: str, done: int, total: int) -> None:
            nonlocal stage
            stage = what
            bar(done, total)

        made = api.calibrate(
            program,
            given,
            parts=chosen,
            windows=windows,
            options=options,
            seed=measured.seed,
            unfinished=unfinished,
            progress=progress,
        )
    made.save(out)
    remove_steps(unfinished)
    return _print(out, made, time.perf_counter() - start, common.json)


def _print(out: Path, made: Calibration, seconds: float, json: bool) -> None:
    from dipc.quantities import format_bytes, number
    from dipc.report.calibration import calibration_dict, calibration_tables

    size = out.stat().st_size
    if json:
        return show_json({**calibration_dict(made), "seconds": seconds, "out": str(out), "out_bytes": size})
    show(calibration_tables(made, {"seconds": number(seconds, 3)}))
    typer.echo(f"\nwrote {out} ({format_bytes(size)})")
    return None
