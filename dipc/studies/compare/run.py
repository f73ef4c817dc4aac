"""`compare`: going over all cells of a comparison. What is finished is read; what is missing is made and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dipc.backends import get_backend
from dipc.calibration.file import calibration_for
from dipc.errors import UsageError
from dipc.frontend.hugging_face import capture
from dipc.ir.identity import Identity
from dipc.ir.program import Program
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.studies.compare.benchmarks import Benchmarks
from dipc.studies.compare.cells import Cells, Progress
from dipc.studies.compare.entries import choose
from dipc.studies.compare.folder import Folder
from dipc.studies.compare.measure import Remembered
from dipc.studies.compare.prepare import Training
from dipc.studies.compare.prepare import calibration as made_calibration
from dipc.studies.compare.result import Comparison
from dipc.studies.compare.verdict import verdict
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
    calibration_text: Text | str | None = None,
    calibration_tokens: int | None = 131_072,
    lora: bool = False,
    train_text: Text | str | None = None,
    rank: int = 32,
    iterations: int = 1000,
    tasks: Sequence[str] = (),
    task_data: str | Path | None = None,
    fewshot: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **capture_options: Any,
) -> Comparison:
    """Measure many methods on one model, one text and one set of densities: the paper's Tables 1, 3 and 4.

    Every finished cell is kept in the folder, so that a rerun makes only what is missing. What a method cannot do, and
    what fails, is a row with its reason; the others are not lost.

    Args:
        model: the dense model: a Program, or what `capture` takes.
        methods: `all`, `paper`, names, or pipelines with DENSITY (`dipc.studies.compare.entries.choose`).
        densities: of the blocks, in (0, 1].
        out: the folder that keeps everything.
        text: what to measure on; by default the sample that comes with dipc.
        seq_len: tokens of a window; by default the model's context, at most 2,048.
        max_tokens: use only so many tokens from the start of the text.
        calibration: a file of `calibrate`, for the methods that need one.
        calibration_text: text to make it from instead; that is done once, and the file kept in the folder.
        calibration_tokens: use only so many tokens of that text.
        lora: also train adapters for the rows `dip+lora` and `cats+lora`, each density its own.
        train_text: what they are trained on; by default the calibration's text.
        rank: of the adapters.
        iterations: of the training of each.
        tasks: of the LM Evaluation Harness, for accuracy beside perplexity.
        task_data: a folder with the tasks' data; nothing is asked of the hub then.
        fewshot: examples before each question, as for `run_tasks`.
        limit: only the first so many questions of each task.
        seed: of calibration, training and tasks.
        progress: called with cells done, cells in all, and the name of the one at work.
        **capture_options: for `capture`.

    Raises:
        UsageError: a density, a method or a text that cannot be used, or a folder that holds another comparison.
    """
    asked = _checked(densities)
    entries = choose(methods, asked, lora=lora)
    given = _text(text) or sample_text()
    calibration_text = _text(calibration_text)
    train_text = _text(train_text) or calibration_text
    if calibration is not None and calibration_text is not None:
        raise UsageError("give a calibration or a text to make it from, not both")
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
    planned = [(e, density) for density in (*asked, None) for e in entries if e.stands_at(density)]
    benchmarks = Benchmarks(tuple(tasks), None if task_data is None else Path(task_data), fewshot, limit, seed)
    total = (len(planned) + 1) * (1 + len(benchmarks.tasks))
    file = None if calibration is None else Path(calibration)
    if calibration_text is not None:
        say = (lambda what: progress(0, total, what)) if progress is not None else (lambda what: None)
        file = made_calibration(
            folder, program, calibration_text, seed, say, seq_len=length, max_tokens=calibration_tokens
        )
    if file is not None:
        calibration_for(str(file), program)
    with get_backend("eager", "run").open(program) as session:
        cells = Cells(
            program=program,
            dense=Remembered(session),
            folder=folder,
            text=given,
            seq_len=length,
            max_tokens=max_tokens,
            calibration=file,
            training=None if train_text is None else Training(train_text, rank, iterations, seed),
            benchmarks=benchmarks,
            total=total,
            progress=progress,
        )
        dense = cells.of_dense()
        # What has to be trained takes longest, so it comes last; the table has it in its place.
        made = {row: cells.of_entry(*row) for row in sorted(planned, key=lambda row: row[0].is_trained)}
    rows = tuple(made[row] for row in planned)
    protocol = {
        **about,
        "windows": len(plan),
        "tokens scored": sum(len(window.ids) - 1 for window in plan),
        "scope": "all",
        "calibration": None if file is None else _described(file, program),
        "training": _trained(train_text, rank, iterations)
        if train_text and any(e.is_trained for e in entries)
        else None,
        "seed": seed,
    }
    found = Comparison(_model(program), protocol, dense, rows)
    return dataclasses.replace(found, verdict=tuple(verdict(found)))


def _text(given: Text | str | None) -> Text | None:
    return Text("text", given) if isinstance(given, str) else given


def _described(calibration: Path, program: Program) -> str:
    meta = calibration_for(str(calibration), program).meta
    return f"{meta['tokens']:,} tokens of {meta['text']} ({meta['text_digest']})"


def _trained(text: Text, rank: int, iterations: int) -> str:
    return f"LoRA of rank {rank}, {iterations:,} iterations on {text.name} ({text.digest})"


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
