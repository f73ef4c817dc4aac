"""The LM Evaluation Harness: its tasks by name, from the hub or from local files, and a quiet run of them."""

from __future__ import annotations

import difflib
import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import evaluate as metrics
import lm_eval.tasks
import numpy as np
from huggingface_hub import constants, get_session
from lm_eval.api import task as harness_task
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from dipc.errors import DipcError, MissingDependency, UsageError
from dipc.evaluation.tasks.local import LocalData
from dipc.evaluation.tasks.model import SessionLM

VERSION = version("lm_eval")
BOOTSTRAP = 100
"""Resamplings for the standard error of metrics that are no mean; a mean's needs none."""
_FOLDERS = ("arc", "hellaswag", "mgsm", "mmlu", "mmlu_pro", "piqa", "super_glue", "winogrande")
"""Where the paper's tasks lie. Reading all of the harness's fourteen thousand takes ten seconds."""
_LOCAL = "from local files"
_UNREACHABLE = (
    "its data are on the Hugging Face hub, which cannot be reached, and not in its cache; "
    "mmlu and hellaswag can be read from local files"
)


@lru_cache(maxsize=1)
def task_manager(names: tuple[str, ...]) -> TaskManager:
    """The harness's list of tasks with these among them. UsageError if it has no task of a name."""
    root = Path(lm_eval.tasks.__file__).parent
    manager = TaskManager(include_defaults=False, include_path=[root / folder for folder in _FOLDERS])
    # A tag may name tasks of other folders too.
    if all(n in manager.task_index and manager.task_index[n].kind != Kind.TAG for n in names):
        return manager
    manager = TaskManager()
    for name in names:
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=0.5)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"no task named {name!r}{guess} (`lm_eval ls tasks` lists all {len(manager.all_tasks)})")
    return manager


def load(manager: TaskManager, name: str, data: LocalData | None, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """A task, group or tag with its data, as `evaluate` takes them.

    Raises:
        UsageError: data that could not be had from the hub, or that no local files stand for; a metric that is code
            from the hub, unless `trust_remote_code`.
        BadFile: a local file that is absent or malformed.
    """
    wanted = name
    if data is not None:
        # What stands beside `task` in a group goes to all its tasks.
        group = {"group": _LOCAL, "task": [name], "class": _local_task(data)}
        manager.task_index[_LOCAL] = Entry(_LOCAL, Kind.GROUP, None, group)
        wanted = _LOCAL
    with _speaking_of(name), _quiet(), _own_code(trust_remote_code), _hub(data is None) as reachable:
        try:
            loaded: dict[str, Any] = manager.load([wanted])
        except DipcError:
            raise
        except Exception as error:
            if data is None and not reachable:
                raise UsageError(_UNREACHABLE) from error
            raise UsageError(f"its data could not be had: {error}") from error
        for task in loaded["tasks"].values():
            _check_metrics(task)
    if data is not None:
        del loaded["groups"][_LOCAL], loaded["group_map"][_LOCAL]
    return loaded


def run(
    model: SessionLM, name: str, loaded: dict[str, Any], *, fewshot: int | None, limit: int | None, seed: int
) -> dict[str, Any]:
    """The harness's results of one task, group or tag.

    Args:
        model: what is asked.
        name: of the task, for messages.
        loaded: of `load`.
        fewshot: examples before each question; by default the task's own number, 5 for MMLU.
        limit: only so many questions of each task.
        seed: of the choice of examples.

    Raises:
        UsageError: what the task asks for cannot be given: more examples than there are, more tokens than fit.
    """
    with _speaking_of(name), _quiet(), _seeded(seed):
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            # A task that says 0 cannot have examples; the harness leaves it at that too.
            shots = own if own == 0 or fewshot is None else fewshot
            task.set_config(key="num_fewshot", value=_usual_fewshot(task) if shots is None else shots)
            task.set_fewshot_seed(seed=seed)
            _check_examples(task)
        try:
            found: dict[str, Any] = evaluate(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False)
        except (AssertionError, ValueError) as error:
            raise UsageError(str(error)) from error
    return found


@contextmanager
def _speaking_of(name: str) -> Iterator[None]:
    """Put the task's name in front of what went wrong with it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependency(f"{name}: needs the package {error.name}: pip install {error.name}") from error
    except DipcError as error:
        raise type(error)(f"{name}: {' '.join(str(error).split())}") from error


def _check_metrics(task: Any) -> None:
    """The harness only logs it where it has not got a metric."""
    metrics = getattr(task, "_metric_fn_list", {})
    if task.config.process_results is None:
        for metric in (metric for metric, function in metrics.items() if function is None):
            raise UsageError(f"its metric {metric} is code from the hub, which is run with trust_remote_code only")


def _usual_fewshot(task: Any) -> int:
    """The paper's five for MMLU, whose configuration leaves it open."""
    return 5 if task.DATASET_PATH == "cais/mmlu" else 0


def _check_examples(task: Any) -> None:
    shots = task.get_config("num_fewshot")
    if shots and getattr(task, "without_examples", False):
        raise UsageError(f"its {shots} examples come from the split train, which the folder lacks")


def _local_task(data: LocalData) -> type:
    """The harness's task, its data from local files."""

    class LocalTask(ConfigurableTask):  # type: ignore[misc]
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config={key: value for key, value in config.items() if key != "class"})

        def download(self, dataset_kwargs: object = None, **_: object) -> None:
            splits = data.splits(self.DATASET_PATH, self.DATASET_NAME)
            self.dataset = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
            training = self.config.training_split
            self.without_examples = training is not None and training not in splits
            if self.without_examples:
                self.config.training_split = None
            if self.config.process_docs is not None:
                # The harness asks for the processed rows again and again; those of the hub are cached on disk.
                self.config.process_docs = lru_cache(maxsize=2)(self.config.process_docs)

    return LocalTask


@contextmanager
def _hub(asked: bool) -> Iterator[bool]:
    """Give whether the hub is there, asked once: its client would try for half a minute, for each file.

    Where it is not, or is not `asked` for anything, it is left alone and only its cache is read.
    """
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    reachable = asked and not any(before)
    try:
        if reachable:
            try:
                get_session().head(constants.ENDPOINT, timeout=5)
            except Exception:
                reachable = False
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = not reachable
        yield reachable
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextmanager
def _own_code(trust_remote_code: bool) -> Iterator[None]:
    """Load no metric from the hub, which would be code. Data sets bring none since datasets 4."""

    def refuse(path: str, *_: object, **__: object) -> None:
        raise UsageError(f"its metric {path} is code from the hub, which is run with trust_remote_code only")

    before = metrics.load
    metrics.load = before if trust_remote_code else refuse
    try:
        yield
    finally:
        metrics.load = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's bars and notes off the terminal: it has no option for those of its preparations."""
    bar, shown, log = harness_task.tqdm, not datasets.are_progress_bars_disabled(), logging.getLogger("lm_eval")
    level = log.level
    harness_task.tqdm = partial(bar, disable=True)
    datasets.disable_progress_bars()
    log.setLevel(logging.CRITICAL)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # a pool of processes for the few resamplings
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        harness_task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()
        log.setLevel(level)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Tasks may draw from the global generators; they are left as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
