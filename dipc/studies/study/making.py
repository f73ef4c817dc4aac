"""Making the runs that a study's folder lacks, counting them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dipc.studies.study.make import Measured, Run, Store
from dipc.studies.study.workers import Failures, Workers

Progress = Callable[[float, int, str], None]
"""Called with runs done, runs that are known of so far, and the name of the one at work."""


@dataclass
class Making:
    """Runs that are made and those that cannot be; the workers are opened when there is something for them."""

    store: Store
    open_workers: Callable[[], Workers]
    progress: Progress
    measured: dict[Run, Measured] = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)
    _workers: Workers | None = None
    _parts: dict[Run, float] = field(default_factory=dict)

    def make(self, runs: list[Run]) -> None:
        """Read the runs that are in the folder, and make the others."""
        missing = []
        for run in runs:
            if run in self.measured or run in self.failures:
                continue
            held = self.store.read(run)
            if held is None:
                missing.append(run)
            else:
                self.measured[run] = held
        if not missing:
            return
        if self._workers is None:
            self._workers = self.open_workers()
        self._parts |= dict.fromkeys(missing, 0.0)
        self.failures |= self._workers.make(missing, self._say)
        for run in missing:
            held = None if run in self.failures else self.store.read(run)
            if held is not None:
                self.measured[run] = held
            else:
                self.failures.setdefault(run, "it was made where the study's folder is not this one; share the folder")

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()

    def _say(self, run: Run, part: float) -> None:
        self._parts[run] = part
        self.progress(sum(self._parts.values()), len(self._parts), run.label)
