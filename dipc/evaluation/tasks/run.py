"""Run tasks of the LM Evaluation Harness on a program, on the dense one beside it, or on an exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dipc.backends import RunOptions, get_backend
from dipc.backends._session import Session
from dipc.errors import DipcError, MissingDependency, UsageError
from dipc.evaluation.tasks.local import LocalData
from dipc.evaluation.tasks.scores import TaskScore, TaskScores, identity_fields, read_results
from dipc.ir.program import Program
from dipc.options import Options


@dataclass(frozen=True)
class TaskOptions(Options):
    """Which questions of a task are asked."""

    data: Path | None = None
    """A folder with the tasks' data, laid out as in `dipc.evaluation.tasks.local`; nothing is asked of the hub then."""
    fewshot: int | None = None
    """Examples before each question; by default the task's own number, and 5 for MMLU as in the paper."""
    limit: int | None = None
    """Only the first so many questions of each task (of MMLU: of each subject)."""
    seed: int = 0
    """Seed of the choice of examples, where a task chooses any."""
    trust_remote_code: bool = False
    """Let a task's metric be code from the hub."""

    def __post_init__(self) -> None:
        if self.fewshot is not None and self.fewshot < 0:
            raise UsageError(f"fewshot is {self.fewshot}; it must be 0 or more")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; it must be at least 1")


def run_tasks(
    model: Program | Session,
    tasks: Sequence[str],
    *,
    questions: TaskOptions = TaskOptions(),
    dense: bool = False,
    runner: RunOptions = RunOptions(),
    progress: Callable[[int, int], None] | None = None,
) -> TaskScores:
    """Return scores of tasks of the LM Evaluation Harness, by the harness's names, prompts and metrics.

    Data come from the Hugging Face hub, or from local files. A task that fails leaves the others' scores as they are.
    What a sparse program's scores mean is said in `dipc.evaluation.tasks.model`.

    Args:
        model: a program with weights and a tokenizer, or a session.
        tasks: tasks, groups or tags, such as `mmlu` and `hellaswag`.
        questions: which questions are asked, and where they come from.
        dense: run a sparse program's dense one beside it.
        runner: what runs a program. A session is what it is.
        progress: called with requests done and requests in all, of the task at hand.

    Raises:
        MissingDependency: no lm_eval.
        UsageError: no such task, or no task could be run: for one, the hub cannot be reached.
        BadFile: local data that are absent or malformed, and no other task could be run.
    """
    names = check_tasks(tasks, questions.data)
    from dipc.evaluation.tasks import harness

    local = None if questions.data is None else LocalData(questions.data)
    scores: list[TaskScore] = []
    failures: dict[str, DipcError] = {}
    with ExitStack() as stack:
        sessions = _sessions(stack, model, dense, runner)
        for name in names:
            try:
                scores += _score(name, names, sessions, questions, local, progress)
            except DipcError as error:
                failures[name] = error
        identity = identity_fields(sessions[0].identity)
    if not scores:
        raise next(iter(failures.values()))
    return TaskScores(
        **identity,
        harness=harness.VERSION,
        seed=questions.seed,
        limit=questions.limit,
        data="" if local is None else str(local.folder),
        data_digest="" if local is None else local.digest,
        scores=tuple(scores),
        failures=failures,
    )


def check_tasks(tasks: Sequence[str], data: Path | None = None) -> tuple[str, ...]:
    """The names of the tasks, each once: all that can be told of them before a model is opened.

    Raises:
        MissingDependency: no lm_eval.
        UsageError: no such task.
        BadFile: no such folder of data.
    """
    names = tuple(dict.fromkeys(name.strip() for name in tasks))
    if not names or not all(names):
        raise UsageError("name the tasks, such as mmlu,hellaswag")
    if find_spec("lm_eval") is None:
        raise MissingDependency('tasks need the LM Evaluation Harness: pip install "dipc[eval]"')
    from dipc.evaluation.tasks import harness

    harness.task_manager(names)
    if data is not None:
        LocalData(data)
    return names


def _score(
    name: str,
    names: tuple[str, ...],
    sessions: Sequence[Session],
    questions: TaskOptions,
    local: LocalData | None,
    progress: Callable[[int, int], None] | None,
) -> list[TaskScore]:
    """Ask one of the tasks' questions of the model and, where it is there, of the dense one."""
    from dipc.evaluation.tasks import harness
    from dipc.evaluation.tasks.model import SessionLM

    manager = harness.task_manager(names)
    loaded = harness.load(manager, name, local, trust_remote_code=questions.trust_remote_code)
    results = []
    for place, session in enumerate(sessions):
        lm = SessionLM(session, _share(progress, place, len(sessions)))
        fewshot, limit, seed = questions.fewshot, questions.limit, questions.seed
        results.append(harness.run(lm, name, loaded, fewshot=fewshot, limit=limit, seed=seed))
    return read_results(results[0], results[1] if len(results) > 1 else None)


def _sessions(stack: ExitStack, model: Program | Session, dense: bool, runner: RunOptions) -> list[Session]:
    """Return what is run: the model, then the dense one if it is wanted beside it."""
    if not isinstance(model, Program):
        return [model]
    backend = get_backend(runner.backend, "run")
    program = backend.prepare(model, runner)
    found = [stack.enter_context(backend.open(program, runner))]
    if dense and program.dense is not None:
        found.append(stack.enter_context(backend.open(program.dense, dataclasses.replace(runner, exported=None))))
    return found


def _share(progress: Callable[[int, int], None] | None, place: int, runs: int) -> Callable[[int, int], None] | None:
    """Progress of one run as a part of all runs of the same task."""
    return progress and (lambda done, total: progress(place * total + done, runs * total))
