"""Runs: what they are, who executes them, and what stands for one that was not made."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from dipc.errors import DipcError
from dipc.frontend.tracer import first_line
from dipc.registry import load_installed_plugins, load_plugin

Watch = Callable[[float, str], None]
"""Called with the part of a run that is done, and with what is at work."""
log = logging.getLogger("dipc.studies")


class Run(Protocol):
    """A program to be measured at once, by one process. It is hashable, and can be sent to another process."""

    @property
    def label(self) -> str:
        """Its name, for people."""

    @property
    def pipeline(self) -> str:
        """Return what makes the program of the dense one; empty for the dense one itself."""


R = TypeVar("R", bound=Run)
T = TypeVar("T")


class RunStore(Protocol[R, T]):  # type: ignore[misc]  # R is what is asked for, and stands in no result
    """The runs that are finished."""

    def read(self, run: R) -> T | None:
        """Return what a run gave, or None where it was not made wholly."""

    def claim(self, run: R) -> AbstractContextManager[None]:
        """Return a context in which no other process makes this run."""


class RunExecutor(ABC, Generic[R, T]):
    """Executes runs in one process.

    Attributes:
        store: where what they give is kept.
    """

    store: RunStore[R, T]

    def execute(self, run: R, watch: Watch) -> None:
        """Make a run and keep it, unless it was made, perhaps by another process meanwhile."""
        with self.store.claim(run):
            if self.store.read(run) is None:
                self.make(run, watch)

    @abstractmethod
    def make(self, run: R, watch: Watch) -> None:
        """Make a run and keep it."""


class Setup(Hashable, Protocol):
    """Everything that all runs of a folder share. It can be sent to another process."""

    @property
    def plugins(self) -> tuple[Path, ...]:
        """Files of passes, policies and operators."""

    def open(self) -> RunExecutor[Any, Any]:
        """Load the model, and return what executes the runs."""


@dataclass(frozen=True)
class RunFailure:
    """The reason why a run was not made.

    Attributes:
        reason: in a line.
        refused: whether it cannot be made at all, which is no failure, and nothing that a second try would change.
        error: what was raised, where it was raised in this process.
    """

    reason: str
    refused: bool = False
    error: Exception | None = field(default=None, compare=False, repr=False)


class Refused(Exception):
    """A run cannot be made, for the reason that it says."""


def failure_of(error: Exception, run: Run) -> RunFailure:
    """Return what an error means for the run that raised it; one that nobody foresaw is logged."""
    if isinstance(error, (DipcError, Refused)):
        return RunFailure(str(error), isinstance(error, Refused), error)
    log.warning("%s", run.pipeline, exc_info=error)
    return RunFailure(f"{type(error).__name__}: {first_line(error)}", error=error)


def run_in_worker(setup: Setup, run: Run, watch: Watch) -> None:
    """Execute a run in a process that has nothing of the study yet; the next one finds the model loaded."""
    _executor(setup).execute(run, watch)


@lru_cache(maxsize=1)
def _executor(setup: Setup) -> RunExecutor[Any, Any]:
    torch.set_num_threads(1)  # as many processes as cores are at it already
    load_installed_plugins()
    for file in setup.plugins:
        load_plugin(file)
    return setup.open()
