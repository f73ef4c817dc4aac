"""`compare`: going over all rows of a comparison. What is finished is read; what is missing is made and kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dipc.calibration.file import calibration_for
from dipc.documents import JsonObject
from dipc.errors import UsageError
from dipc.frontend.hugging_face import capture
from dipc.ir.identity import Identity
from dipc.ir.program import Program
from dipc.options import TextSpec
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.studies.compare.benchmarks import Benchmarks
from dipc.studies.compare.executor import RowExecutor
from dipc.studies.compare.findings import findings
from dipc.studies.compare.prepare import AdapterTraining
from dipc.studies.compare.prepare import calibration as made_calibration
from dipc.studies.compare.result import Comparison, Row
from dipc.studies.compare.store import COMPARISON, DENSE_RUN, RowResult, RowRun, RowSetup, RowStore
from dipc.studies.engine.folder import Folder
from dipc.studies.engine.scheduler import Progress, RunScheduler
from dipc.studies.engine.workers import InProcess
from dipc.studies.method_rows import MethodRow, choose
from dipc.studies.options import AccuracyOptions, MeasuredText, Preparation
from dipc.text import Text, as_text, sample_text, windows

Planned = tuple[MethodRow, float | None]
"""A row in the block of a density; None where the pipeline alone decides."""


def compare(
    model: Program | str | Path | torch.nn.Module,
    methods: str | Sequence[str] = "all",
    densities: Sequence[float] = (0.6, 0.5, 0.4),
    *,
    out: str | Path,
    measured: MeasuredText = MeasuredText(),
    preparation: Preparation = Preparation(),
    accuracy: AccuracyOptions = AccuracyOptions(),
    progress: Progress | None = None,
    **capture_options: Any,
) -> Comparison:
    """Measure many methods on one model, one text and one set of densities: the paper's Tables 1, 3 and 4.

    Every finished cell is kept in the folder, so that a rerun makes only what is missing. What a method cannot do, and
    what fails, is a row with its reason; the others are not lost.

    Args:
        model: the dense model: a Program, or what `capture` takes.
        methods: `all`, `paper`, names, or pipelines (`dipc.studies.method_rows.choose`).
        densities: of the blocks, in (0, 1].
        out: the folder that keeps everything.
        measured: what to measure on.
        preparation: the calibration and the adapters that rows need beforehand.
        accuracy: tasks beside perplexity.
        progress: called with cells done, cells in all, and the name of the one at work.
        **capture_options: for `capture`.

    Raises:
        UsageError: a density, a method or a text that cannot be used, or a folder that holds another comparison.
    """
    blocks = _checked(densities)
    method_rows = choose(methods, blocks, lora=preparation.lora)
    program = _dense(model if isinstance(model, Program) else capture(model, **capture_options))
    text = as_text(measured.text) or sample_text()
    length = program.info.usual_context if measured.seq_len is None else measured.seq_len
    plan = windows(Identity.of(program, "eager"), text, length, measured.max_tokens, 0)
    about = _about(program, text, TextSpec(length, measured.max_tokens))
    folder = Folder(Path(out), about, COMPARISON)
    planned = [(row, density) for density in (*blocks, None) for row in method_rows if row.applies_at(density)]
    say, cells = progress or (lambda done, total, what: None), (len(planned) + 1) * (1 + len(accuracy.tasks))
    calibration = _calibration(folder, program, preparation, length, lambda what: say(0, cells, what))
    training = _training(preparation)
    setup = RowSetup(text, length, measured.max_tokens, calibration, training, _benchmarks(accuracy, preparation.seed))
    dense, rows = _made(RowStore(setup, program, folder), program, planned, say)
    protocol = {
        **about,
        "windows": len(plan),
        "tokens scored": sum(len(window.ids) - 1 for window in plan),
        "scope": "all",
        "calibration": None if calibration is None else _described(calibration, program),
        "training": _trained(training) if any(row.is_trained for row in method_rows) else None,
        "seed": preparation.seed,
    }
    found = Comparison(_model(program), protocol, dense, rows)
    return dataclasses.replace(found, findings=tuple(findings(found)))


def _about(program: Program, text: Text, extent: TextSpec) -> JsonObject:
    """Return what the folder is about: a comparison of others is refused."""
    return {
        "model": program.info.name,
        "model digest": program.info.digest,
        "text": text.name,
        "text digest": text.digest,
        "tokens of a window": extent.seq_len,
        "tokens at most": extent.max_tokens,
    }


def _made(
    store: RowStore, program: Program, planned: Sequence[Planned], progress: Progress
) -> tuple[Row, tuple[Row, ...]]:
    """Return the dense model's row and all others: what is finished is read, what is missing is made and kept."""
    cells = 1 + len(store.setup.benchmarks.tasks)

    def say(done: float, total: int, what: str) -> None:
        progress(done * cells, total * cells, what)

    runs = {row: _run(store, *row) for row in planned}
    scheduler = RunScheduler(store, lambda: InProcess(RowExecutor(store, program)), say, len(planned) + 1)
    with contextlib.closing(scheduler):
        scheduler.make([DENSE_RUN])
        if DENSE_RUN in scheduler.failures:
            # What fails here would fail everywhere.
            failure = scheduler.failures[DENSE_RUN]
            raise failure.error or UsageError(failure.reason)
        # What has to be trained takes longest, so it comes last; the table has it in its place.
        scheduler.make(sorted((r for r in runs.values() if isinstance(r, RowRun)), key=lambda run: run.is_trained))
    dense = scheduler.found[DENSE_RUN]
    rows = tuple(_row(store, scheduler, row, density, runs[row, density]) for row, density in planned)
    return Row("dense", "dense", "dense", None, "", dense.figures, dense.tasks), rows


def _run(store: RowStore, row: MethodRow, density: float | None) -> RowRun | str:
    """Return what has to be made for a row of a block, or why it cannot be."""
    if row.is_trained and store.setup.training is None:
        return "needs an adapter: give a text to train it on, --calibration-text or --train-text"
    try:
        store.setup.passes(row.pipeline(density))
    except UsageError as error:
        return str(error)
    label = row.label if density is None else f"{row.label} {density:g}"
    return RowRun(label, row.pipeline(density), row.is_trained)


def _row(
    store: RowStore,
    scheduler: RunScheduler[RowRun, RowResult],
    method: MethodRow,
    density: float | None,
    run: RowRun | str,
) -> Row:
    """Return a method's row at a density; a reason stands for figures that there are not."""
    row = Row(method.name, method.label, method.kind, density, method.pipeline(density))
    if isinstance(run, str):
        return dataclasses.replace(row, reason=run)
    if run in scheduler.found:
        found = scheduler.found[run]
        return dataclasses.replace(row, figures=found.figures, tasks=found.tasks)
    failure = scheduler.failures[run]
    return dataclasses.replace(row, figures=store.figures(run), reason=failure.reason, failed=not failure.refused)


def _calibration(
    folder: Folder, program: Program, preparation: Preparation, seq_len: int, say: Callable[[str], None]
) -> Path | None:
    """Return the file of the calibration, made now if it is to be made of a text."""
    text, given = as_text(preparation.calibration_text), preparation.calibration
    file = None if given is None else Path(given)
    if text is not None:
        extent = TextSpec(seq_len, preparation.calibration_tokens)
        file = made_calibration(folder, program, text, preparation.seed, say, extent)
    if file is not None:
        calibration_for(str(file), program)
    return file


def _training(preparation: Preparation) -> AdapterTraining | None:
    text = as_text(preparation.train_text) or as_text(preparation.calibration_text)
    return None if text is None else AdapterTraining(text, preparation.rank, preparation.iterations, preparation.seed)


def _benchmarks(accuracy: AccuracyOptions, seed: int) -> Benchmarks:
    data = None if accuracy.task_data is None else Path(accuracy.task_data)
    return Benchmarks(tuple(accuracy.tasks), data, accuracy.fewshot, accuracy.limit, seed)


def _described(calibration: Path, program: Program) -> str:
    meta = calibration_for(str(calibration), program).meta
    return f"{meta['tokens']:,} tokens of {meta['text']} ({meta['text_digest']})"


def _trained(training: AdapterTraining | None) -> str | None:
    if training is None:
        return None
    text = training.text
    return f"LoRA of rank {training.rank}, {training.iterations:,} iterations on {text.name} ({text.digest})"


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
