"""The library's front door: what the command line does, from Python. Each command is one of these calls.

program = dipc.capture("demo")
result = dipc.compile(program, "dip-ca{density=0.5 gamma=0.2}")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import dipc.artifact.writer as _artifact
from dipc.backends import BACKENDS, Export
from dipc.calibration.file import Calibration
from dipc.documents import JsonObject
from dipc.errors import UnknownName
from dipc.evaluation import estimate as _estimate
from dipc.evaluation import generation as _generation
from dipc.evaluation import perplexity as _perplexity
from dipc.evaluation.estimate import Estimate
from dipc.evaluation.generation import Generation
from dipc.evaluation.perplexity import OwnScore, Score
from dipc.evaluation.tasks import run as _tasks
from dipc.evaluation.tasks.scores import TaskScores
from dipc.frontend.hugging_face import capture
from dipc.ir.program import Program
from dipc.memory.flash import FlashReadOptions
from dipc.memory.synthetic import ActivityModel, synthetic_trace
from dipc.memory.trace import Trace
from dipc.options import flat
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import Compiled, run_pipeline, with_calibration
from dipc.pipeline.text import parse_pipeline
from dipc.report.calibration import calibration_dict
from dipc.report.comparison import comparison_dict, comparison_markdown
from dipc.report.compiled import compiled_dict
from dipc.report.estimate import estimate_dict
from dipc.report.finetuned import finetuned_dict
from dipc.report.html import write_report
from dipc.report.plan import plan_dict
from dipc.report.score import score_dict
from dipc.report.study import study_dict
from dipc.report.study_folder import write_comparison, write_plan, write_study
from dipc.report.tasks import tasks_dict
from dipc.report.trace import activity_dict, trace_dict
from dipc.studies.compare import Comparison
from dipc.studies.compare import run as _compare
from dipc.studies.study import plan as _plan
from dipc.studies.study import study as _study
from dipc.studies.study.plan import Plan
from dipc.studies.study.result import Study
from dipc.text import Text
from dipc.tuning import fit_activity as _fit_activity
from dipc.tuning import measure as _measure
from dipc.tuning.lora import finetune as _finetune
from dipc.tuning.lora.finetune import Finetuned

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from torch import nn


__all__ = [
    "ActivityModel",
    "Calibration",
    "Comparison",
    "Compiled",
    "Estimate",
    "Finetuned",
    "FlashReadOptions",
    "Generation",
    "OwnScore",
    "Plan",
    "Program",
    "Score",
    "Study",
    "TaskScores",
    "Text",
    "Trace",
    "calibrate",
    "capture",
    "compare",
    "compile",
    "estimate",
    "evaluate",
    "export",
    "finetune",
    "fit_activity",
    "generate",
    "load",
    "perplexity",
    "plan",
    "run_study",
    "run_tasks",
    "save",
    "synthetic_trace",
    "to_dict",
    "to_markdown",
    "write_report",
]


calibrate = flat(_measure.calibrate)
estimate = flat(_estimate.estimate)
evaluate = flat(_perplexity.evaluate)
finetune = flat(_finetune.finetune)
fit_activity = flat(_fit_activity.fit_activity)
generate = flat(_generation.generate)
perplexity = flat(_perplexity.perplexity)
run_tasks = flat(_tasks.run_tasks)


def _keeping(run: Callable[P, R], write: Callable[[R, Path], None]) -> Callable[P, R]:
    """Let a study write what it gives into the folder that it was told to keep everything in."""

    @functools.wraps(run)
    def call(*args: P.args, **options: P.kwargs) -> R:
        found = run(*args, **options)
        folder = options.get("out") or getattr(options.get("runs"), "out", None)
        if isinstance(folder, (str, Path)):
            write(found, Path(folder))
        return found

    return call


compare = _keeping(flat(_compare.compare), write_comparison)
run_study = _keeping(flat(_study.run_study), write_study)
plan = _keeping(flat(_plan.plan), write_plan)


def compile(
    model: Program | str | Path | nn.Module,
    passes: str | Sequence[Pass],
    *,
    allow_noop: bool = False,
    check_numerics: bool = False,
    calibration: str | Path | None = None,
    watch: Callable[[int, Pass, Program], None] | None = None,
    **capture_options: Any,
) -> Compiled:
    """Capture a model (unless it is a Program) and run a pipeline over it.

    Args:
        model: a Program, or what `capture` takes.
        passes: pipeline text such as `dip-ca{density=0.5 gamma=0.2}`, or passes. What they require is inserted.
        allow_noop: accept a pass that finds nothing to rewrite.
        check_numerics: check each pass's numbers against its stated tolerance as well.
        calibration: a file by `dipc calibrate` for every pass that takes one and was given none.
        watch: called with index, pass and program after each pass.
        **capture_options: for `capture`.
    """
    ordered = parse_pipeline(passes) if isinstance(passes, str) else passes
    if calibration is not None:
        ordered = with_calibration(ordered, str(calibration))
    program = model if isinstance(model, Program) else capture(model, **capture_options)
    return run_pipeline(program, ordered, allow_noop=allow_noop, check_numerics=check_numerics, watch=watch)


def save(result: Compiled | Program, out: str | Path, *, dumps: Mapping[str, str] | None = None) -> None:
    """Write a program, or a compilation with its log, as an artifact folder."""
    _artifact.save(result, Path(out), dumps=dumps or {})


def export(result: Compiled | Program, to: str, folder: str | Path, *, pack: bool = True) -> Export:
    """Write a program for another runtime: `export(result, "onnx", "out")` makes out/model.onnx.

    Args:
        result: a program with weights, or a compilation with its log.
        to: a backend that exports.
        folder: a new folder, written whole or not at all.
        pack: lower the program first as the backend's kernels want it (`onnx` by the pass `pack`: the matrices of
            pruned products are stored unit by unit).

    Raises:
        UsageError: another format, no weights, or the folder exists.
        UnsupportedModel: an operator or an eviction policy that has no form there.
        MissingDependency: a package is absent.
    """
    formats = [name for name in BACKENDS.names() if "export" in BACKENDS.get(name).abilities()]
    if to not in formats:
        raise UnknownName("export format", to, formats)
    backend = BACKENDS.get(to)()
    program = result.program if isinstance(result, Compiled) else result
    pipeline = result.pipeline if isinstance(result, Compiled) else ""
    if pack and backend.lowering:
        program = run_pipeline(program, parse_pipeline(backend.lowering), allow_noop=True).program
    return backend.export(program, Path(folder), pipeline=pipeline)


def to_dict(
    result: ActivityModel
    | Calibration
    | Comparison
    | Compiled
    | Estimate
    | Finetuned
    | Plan
    | Score
    | Study
    | TaskScores
    | Trace,
) -> JsonObject:
    """A result as plain values for JSON, with every field that its figures depend on: what `--json` prints."""
    if isinstance(result, Comparison):
        return comparison_dict(result)
    if isinstance(result, Plan):
        return plan_dict(result)
    if isinstance(result, Study):
        return study_dict(result)
    if isinstance(result, Calibration):
        return calibration_dict(result)
    if isinstance(result, Score):
        return score_dict(result)
    if isinstance(result, Finetuned):
        return finetuned_dict(result)
    if isinstance(result, ActivityModel):
        return activity_dict(result)
    if isinstance(result, Trace):
        return trace_dict(result)
    if isinstance(result, TaskScores):
        return tasks_dict(result)
    return estimate_dict(result) if isinstance(result, Estimate) else compiled_dict(result)


def to_markdown(result: Comparison) -> str:
    """A comparison as Markdown: a table per density, what the figures show, and what was measured on."""
    return comparison_markdown(result)


def load(path: str | Path) -> Program:
    """Read an artifact's program. No code from the artifact is run."""
    return _artifact.load(Path(path)).program
