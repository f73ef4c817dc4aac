"""Make the runs that a folder lacks, and count them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic

from dipc.studies.engine.run import R, RunFailure, RunStore, T
from dipc.studies.engine.workers import Failures, Workers

Progress = Callable[[float, int, str], None]
"""Called with runs done, runs that are known of so far, and the name of the one at work."""


@dataclass
class RunScheduler(Generic[R, T]):
    """Runs that are made and those that cannot be; the workers are opened when there is something for them.

    Attributes:
        store: finished runs.
        open_workers: gives what executes the others.
        progress: called while they are made.
        total: runs in all, where that is known beforehand: those that were finished before count as done then.
        found: what runs gave.
        failures: why runs were not made.
    """

    store: RunStore[R, T]
    open_workers: Callable[[], Workers[R]]
    progress: Progress
    total: int | None = None
    found: dict[R, T] = field(default_factory=dict)
    failures: Failures[R] = field(default_factory=dict)
    _workers: Workers[R] | None = None
    _parts: dict[R, float] = field(default_factory=dict)
    _held: int = 0

    def make(self, runs: Sequence[R]) -> None:
        """Read the runs that are in the folder, and make the others."""
        missing = []
        for run in dict.fromkeys(runs):
            if run in self.found or run in self.failures:
                continue
            held = self.store.read(run)
            if held is None:
                missing.append(run)
            else:
                self.found[run] = held
                self._held += 1
        if not missing:
            return
        if self._workers is None:
            self._workers = self.open_workers()
        self._parts |= dict.fromkeys(missing, 0.0)
        self.failures |= self._workers.make(missing, self._say)
        for run in missing:
            held = None if run in self.failures else self.store.read(run)
            if held is not None:
                self.found[run] = held
            else:
                elsewhere = RunFailure("it was made where the study's folder is not this one; share the folder")
                self.failures.setdefault(run, elsewhere)

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()

    def _say(self, run: R, part: float, what: str) -> None:
        self._parts[run] = part
        done = sum(self._parts.values())
        if self.total is None:
            self.progress(done, len(self._parts), what)
        else:
            self.progress(self._held + done, self.total, what)
