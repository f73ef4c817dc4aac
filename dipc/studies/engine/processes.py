"""Execute runs in processes of this machine, each of which loads the model once."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

from dipc.frontend.tracer import quiet
from dipc.studies.engine.run import R, Run, RunFailure, Setup, failure_of, run_in_worker
from dipc.studies.engine.workers import MOST_TRIES, Failures, Progress, died

_Part = tuple[float, str]
"""How far a run is, and what is at work."""


@dataclass
class WorkerProcesses(Generic[R]):
    """So many processes of this machine; each loads the model once."""

    setup: Setup
    jobs: int
    _workers: list[_Worker[R]] = field(default_factory=list)

    def make(self, runs: Sequence[R], progress: Progress[R]) -> Failures[R]:
        """Make runs."""
        waiting, tries = list(reversed(runs)), dict.fromkeys(runs, 0)
        failures: Failures[R] = {}
        while waiting or any(worker.run for worker in self._workers):
            self._hand_out(waiting)
            busy: dict[Any, _Worker[R]] = {worker.connection: worker for worker in self._workers if worker.run}
            for connection in wait(list(busy)):
                worker = busy[connection]
                run = worker.run
                assert run is not None
                said = worker.listen()
                if isinstance(said, _Ended):
                    self._workers.remove(worker)
                    tries[run] += 1
                    if tries[run] < MOST_TRIES:
                        waiting.append(run)
                        continue
                    said = died(said.how)
                if isinstance(said, tuple):
                    progress(run, *said)
                    continue
                worker.run = None
                if said is not None:
                    failures[run] = said
                progress(run, 1.0, run.label)
        return failures

    def _hand_out(self, waiting: list[R]) -> None:
        """Give runs to idle workers, then to new ones."""
        while waiting:
            worker = next((w for w in self._workers if w.run is None), None)
            if worker is None:
                if len(self._workers) >= self.jobs:
                    return
                worker = _Worker[R](self.setup)
                self._workers.append(worker)
            worker.start(waiting.pop())

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()


@dataclass(frozen=True)
class _Ended:
    """A process is gone."""

    how: str


class _Worker(Generic[R]):
    """A process that makes one run at a time: it is sent runs, and says parts done, then None or why not."""

    def __init__(self, setup: Setup) -> None:
        # A fork would share torch's threads, which do not survive it.
        context = multiprocessing.get_context("spawn")
        self.run: R | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        # Sent, not an argument: starting a process would wait forever for one that died before it read long arguments.
        self._send(setup)

    def start(self, run: R) -> None:
        """Have a run made."""
        self.run = run
        self._send(run)

    def listen(self) -> _Part | RunFailure | _Ended | None:
        """Return the next thing that it says."""
        try:
            said: _Part | RunFailure | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            self.connection.close()
            return _Ended(f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}")
        return said

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _send(self, message: Setup | Run) -> None:
        with contextlib.suppress(OSError):  # a process that is gone is noticed when it is listened to
            self.connection.send(message)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that no Ctrl-C reaches, not even while they import: the process that starts them decides."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it lets interrupts through once it has started
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, unlike a handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _serve(connection: Connection) -> None:
    """Execute the runs that the connection brings, until nobody is at its other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where they could not be held
    with quiet(), contextlib.suppress(EOFError, ConnectionError):  # the process that started it is gone
        setup = connection.recv()
        while True:
            run = connection.recv()
            try:
                run_in_worker(setup, run, lambda part, what: connection.send((min(0.99, part), what)))
            except ConnectionError:
                raise
            except Exception as error:
                failure = failure_of(error, run)
                connection.send(RunFailure(failure.reason, failure.refused))  # the error itself need not fit through
            else:
                connection.send(None)
