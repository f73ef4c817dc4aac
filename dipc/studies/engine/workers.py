"""Execute runs one after another, in processes of this machine, or on a cluster: the same function in each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from dipc.studies.engine.run import R, RunExecutor, RunFailure, Watch, failure_of

Progress = Callable[[R, float, str], None]
"""Called with a run, the part of it that is done, 1 when it has ended, and what is at work."""
Failures = dict[R, RunFailure]
"""The runs that were not made."""
MOST_TRIES = 2
"""A process that dies takes its run with it and nothing else; the run is tried once more, in a new process."""


class Workers(Protocol[R]):
    """Executors of many runs."""

    def make(self, runs: Sequence[R], progress: Progress[R]) -> Failures[R]:
        """Make runs, each once, and keep them in the study's folder."""

    def close(self) -> None:
        """End whatever is still at work."""


@dataclass
class InProcess(Generic[R]):
    """This process, one run after another."""

    executor: RunExecutor[R, Any]

    def make(self, runs: Sequence[R], progress: Progress[R]) -> Failures[R]:
        """Make runs."""
        failures: Failures[R] = {}
        for run in runs:
            progress(run, 0.0, run.label)
            try:
                self.executor.execute(run, watch(run, progress))
            except Exception as error:
                failures[run] = failure_of(error, run)
            progress(run, 1.0, run.label)
        return failures

    def close(self) -> None:
        """Nothing is at work."""


def watch(run: R, progress: Progress[R]) -> Watch:
    """Return what a run calls to say how far it is: it has not ended before it says so."""
    return lambda part, what: progress(run, min(0.99, part), what)


def died(how: str) -> RunFailure:
    """Return why a run is given up whose process ended every time."""
    return RunFailure(f"its process ended {MOST_TRIES} times before it was made ({how})")
