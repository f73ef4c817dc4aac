"""`compare`: going over all cells of a comparison. What is finished is read; what is missing is made and kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dipc.backends.session import Identity
from dipc.comparison.cells import Cells, Progress
from dipc.comparison.entries import choose
from dipc.comparison.folder import Folder, json_bytes
from dipc.comparison.measure import Remembered
from dipc.comparison.result import Comparison
from dipc.comparison.verdict import verdict
from dipc.errors import MissingDependency, UsageError
from dipc.frontend import capture
from dipc.pipeline import parse_pipeline, run_pipeline
from dipc.program import Program
from dipc.report.plot import perplexity_plot
from dipc.running import open_session
from dipc.text import Text, sample_text, windows


def compare(
    model: Program | str | Path | torch.nn.Module,
    methods: str | Sequence[str] = "all",
    densities: Sequence[float] = (0.6, 0.5, 0.4),
    *,
    out: str | Path,
    text: Text | str | None = None,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    calibration: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **capture_options: Any,
) -> Comparison:
    """Measure many methods on one model, one text and one set of densities: the paper's Tables 1, 3 and 4.

    Every finished cell is kept in the folder, so that a rerun makes only what is missing. What a method cannot do, and
    what fails, is a row with its reason; the others are not lost.

    Args:
        model: the dense model: a Program, or what `capture` takes.
        methods: `all`, `paper`, names, or pipelines with DENSITY (`dipc.comparison.entries.choose`).
        densities: of the blocks, in (0, 1].
        out: the folder that keeps everything.
        text: what to measure on; by default the sample that comes with dipc.
        seq_len: tokens of a window; by default the model's context, at most 2,048.
        max_tokens: use only so many tokens from the start of the text.
        calibration: a file of `calibrate`, for the methods that need one.
        seed: of calibration and training.
        progress: called with cells done, cells in all, and the name of the one at work.
        **capture_options: for `capture`.

    Raises:
        UsageError: a density, a method or a text that cannot be used, or a folder that holds another comparison.
    """
    asked = _checked(densities)
    entries = choose(methods, asked)
    given = sample_text() if text is None else Text("text", text) if isinstance(text, str) else text
    program = _dense(model if isinstance(model, Program) else capture(model, **capture_options))
    length = program.info.usual_context if seq_len is None else seq_len
    plan = windows(Identity.of(program, "eager"), given, length, max_tokens, 0)
    about = {
        "model": program.info.name,
        "model digest": program.info.digest,
        "text": given.name,
        "text digest": given.digest,
        "tokens of a window": length,
        "tokens at most": max_tokens,
    }
    folder = Folder(Path(out), about)
    blocks = [*asked, None]
    planned = [(entry, density) for density in blocks for entry in entries if entry.stands_at(density)]
    with open_session(program) as session:
        cells = Cells(
            program=program,
            dense=Remembered(session),
            folder=folder,
            text=given,
            seq_len=length,
            max_tokens=max_tokens,
            calibration=None if calibration is None else Path(calibration),
            total=len(planned) + 1,
            progress=progress,
        )
        dense = cells.of_dense()
        rows = tuple(cells.of_entry(entry, density) for entry, density in planned)
    protocol = {
        **about,
        "windows": len(plan),
        "tokens scored": sum(len(window.ids) - 1 for window in plan),
        "scope": "all",
        "calibration": None if calibration is None else Path(calibration).name,
        "seed": seed,
    }
    found = Comparison(_model(program), protocol, dense, rows)
    found = dataclasses.replace(found, verdict=tuple(verdict(found)))
    _write(found, folder)
    return found


def _write(found: Comparison, folder: Folder) -> None:
    """table.json, table.md and, where matplotlib is installed, the plot."""
    folder.write("table.json", json_bytes(found.to_dict()))
    folder.write("table.md", found.to_markdown().encode())
    with contextlib.suppress(MissingDependency):
        for kind, content in perplexity_plot(found).items():
            folder.write(f"perplexity.{kind}", content)


def _checked(densities: Sequence[float]) -> tuple[float, ...]:
    if not densities:
        raise UsageError("density: the list is empty; write 0.6,0.5,0.4")
    for density in densities:
        if not 0 < density <= 1:
            raise UsageError(f"density: {density:g} is outside (0, 1]; 1 keeps every weight")
    return tuple(dict.fromkeys(densities))


def _dense(program: Program) -> Program:
    """The model with its MLPs outlined, which every row starts from."""
    if not program.info.has_weights:
        raise UsageError(
            f"{program.info.name} was captured from a config alone: it has no weights to compare methods on"
        )
    if program.method.name != "dense":
        made = program.method.options
        raise UsageError(f"{program.info.name} was compiled with {made} already; compare starts from the dense model")
    return program if program.mlps else run_pipeline(program, parse_pipeline("outline-glu")).program


def _model(program: Program) -> Mapping[str, Any]:
    info = program.info
    return {"name": info.name, "digest": info.digest, "layers": info.layers, "bits per weight": info.weight_bits}
