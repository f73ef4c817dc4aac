"""Execute runs on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Generic

from dipc.errors import MissingDependency, UnknownName
from dipc.frontend.tracer import first_line, quiet
from dipc.studies.engine.run import R, Run, RunFailure, Setup, failure_of, run_in_worker
from dipc.studies.engine.workers import MOST_TRIES, Failures, Progress, died

CLUSTERS = ("ray",)


class RayCluster(Generic[R]):
    """A Ray cluster, each run on one CPU. One that is running is joined, else one is started on this machine.

    Every machine must see the study's folder and the model under the same paths.
    """

    def __init__(self, setup: Setup) -> None:
        self._ray = _ray_module()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        self._setup = self._ray.put(setup)
        self._task = self._ray.remote(num_cpus=1, max_retries=MOST_TRIES - 1)(_execute)

    def make(self, runs: Sequence[R], progress: Progress[R]) -> Failures[R]:
        """Make runs."""
        pending = {self._task.remote(self._setup, run): run for run in runs}
        failures: Failures[R] = {}
        for run in runs:
            progress(run, 0.0, run.label)
        while pending:
            (ready,), _ = self._ray.wait(list(pending), num_returns=1)
            run = pending.pop(ready)
            try:
                said = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                said = died(first_line(error))
            if said is not None:
                failures[run] = said
            progress(run, 1.0, run.label)
        return failures

    def close(self) -> None:
        """Leave the cluster, or end it where it was started here."""
        if self._started:
            self._ray.shutdown()


def _execute(setup: Setup, run: Run) -> RunFailure | None:
    """Return None, or why the run was not made; without the error, which need not fit through a wire."""
    try:
        with quiet():
            run_in_worker(setup, run, lambda part, what: None)
    except Exception as error:
        failure = failure_of(error, run)
        return RunFailure(failure.reason, failure.refused)
    return None


def check_cluster(name: str | None) -> None:
    """Refuse a cluster that cannot be had.

    Raises:
        UnknownName: there is no such kind.
        MissingDependency: its package is absent.
    """
    if name is not None and name not in CLUSTERS:
        raise UnknownName("cluster", name, CLUSTERS)
    if name == "ray":
        _ray_module()


def _ray_module() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency('a study on a cluster needs Ray: pip install "dipc[cluster]"') from error
    return ray
