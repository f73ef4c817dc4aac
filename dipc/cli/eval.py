"""`dipc eval`: perplexity and its kin, dense beside sparse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipc.backends import RunOptions
from dipc.cli.backend import open_running
from dipc.cli.options import ModelOptions, TextFile, grouped
from dipc.cli.tasks import TaskFlags, check_names, check_options, score_tasks
from dipc.cli.terminal import Target, counting, show, show_json
from dipc.errors import UsageError
from dipc.evaluation.scoring import ScoringOptions
from dipc.options import TextSpec

if TYPE_CHECKING:
    from dipc.backends._session import Session
    from dipc.ir.program import Program
    from dipc.text import Text


@grouped
def command(
    target: Target,
    text: TextFile = None,
    windows: TextSpec = TextSpec(),
    scoring: ScoringOptions = ScoringOptions(),
    save_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save which units each token touched, for `estimate --trace`.")
    ] = None,
    questions: TaskFlags = TaskFlags(),
    runner: RunOptions = RunOptions(device="auto"),
    common: ModelOptions = ModelOptions(),
) -> None:
    """Measure perplexity, or scores of tasks, dense beside sparse.

    With the perplexity come bits per byte, distance to the dense model, density and hit rate. With --tasks the LM
    Evaluation Harness asks its questions instead. Both run by the same backend; an exported model by itself has nothing
    beside it.
    """
    check_options(questions, {"text": text, **vars(windows), **vars(scoring), "save_trace": save_trace})
    if questions.tasks is not None:
        check_names(questions.tasks, questions.task_data)
    from dipc.files import check_output_file
    from dipc.text import read_text

    if save_trace is not None:
        read = (target, text, runner.exported)
        check_output_file(save_trace, option="eval: --save-trace", inputs=read)

    given = None if text is None else read_text(text)
    running, runner = open_running(target, runner, common.capture)
    if questions.tasks is not None:
        return score_tasks(running, questions, runner, common.trust_remote_code, common.json)
    with counting("windows") as progress:
        measured: dict[str, Any] = {"windows": windows, "scoring": scoring, "progress": progress}
        return _perplexity(target, running, given, measured, runner, save_trace, common.json)


def _perplexity(
    target: str,
    running: Program | Session,
    text: Text | None,
    measured: dict[str, Any],
    runner: RunOptions,
    save_trace: Path | None,
    json: bool,
) -> None:
    from dipc import api
    from dipc.ir.program import Program
    from dipc.report.score import own_score_dict, own_score_table, score_dict, score_table

    if not isinstance(running, Program):
        _check_no_trace(target, save_trace)
        own = api.perplexity(running, text, **measured)
        return show_json(own_score_dict(own)) if json else show([own_score_table(own)])
    if save_trace is not None:
        _check_sites(running)
    score = api.evaluate(running, text, **measured, runner=runner, record=save_trace is not None)
    if save_trace is not None and score.trace is not None:
        score.trace.save(save_trace)
    return show_json(score_dict(score)) if json else show([score_table(score)])


def _check_no_trace(target: str, save_trace: Path | None) -> None:
    if save_trace is not None:
        raise UsageError(f"eval: --save-trace: {target} is an exported model by itself; name the compiled folder")


def _check_sites(program: Program) -> None:
    from dipc.ir.selections import selections

    if not selections(program):
        raise UsageError(
            f"eval: --save-trace: {program.info.name} selects no units, so it has no trace; compile a method into it"
        )
