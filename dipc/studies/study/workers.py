"""Making runs one after another, in processes of this machine, or on a Ray cluster: the same function in each case.

A process that dies takes its run with it and nothing else; the run is tried once more, in a new process.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from dipc.errors import DipcError, MissingDependency, UnknownName
from dipc.frontend.tracer import first_line, quiet
from dipc.studies.study.make import Maker, Run, Setup, make_elsewhere

Progress = Callable[[Run, float], None]
"""Called with a run and the part of it that is done; 1 when it has ended."""
Failures = dict[Run, str]
"""Why runs were not made, in a line each."""

MOST_TRIES = 2
CLUSTERS = ("ray",)
log = logging.getLogger("dipc.studies.study")


class Workers(Protocol):
    """What makes runs."""

    def make(self, runs: Sequence[Run], progress: Progress) -> Failures:
        """Make runs, each once, and keep them in the study's folder."""

    def close(self) -> None:
        """End whatever is still at work."""


@dataclass
class Here:
    """This process, one run after another."""

    maker: Maker

    def make(self, runs: Sequence[Run], progress: Progress) -> Failures:
        """Make runs."""
        failures: Failures = {}
        for run in runs:
            progress(run, 0.0)
            try:
                self.maker.make(run, _watch(run, progress))
            except Exception as error:
                failures[run] = _reason(error, run)
            progress(run, 1.0)
        return failures

    def close(self) -> None:
        """Nothing is at work."""


@dataclass
class Processes:
    """So many processes of this machine; each loads the model once."""

    setup: Setup
    jobs: int
    _workers: list[_Worker] = field(default_factory=list)

    def make(self, runs: Sequence[Run], progress: Progress) -> Failures:
        """Make runs."""
        waiting, tries, failures = list(reversed(runs)), dict.fromkeys(runs, 0), Failures()
        while waiting or any(worker.run for worker in self._workers):
            self._hand_out(waiting)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.run}
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
                    said = f"its process ended {MOST_TRIES} times before it was made ({said.how})"
                if isinstance(said, float):
                    progress(run, said)
                    continue
                worker.run = None
                if said is not None:
                    failures[run] = said
                progress(run, 1.0)
        return failures

    def _hand_out(self, waiting: list[Run]) -> None:
        """Give runs to idle workers, then to new ones."""
        while waiting:
            worker = next((w for w in self._workers if w.run is None), None)
            if worker is None:
                if len(self._workers) >= self.jobs:
                    return
                worker = _Worker(self.setup)
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


class _Worker:
    """A process that makes one run at a time: it is sent runs, and says parts done, then None or why not."""

    def __init__(self, setup: Setup) -> None:
        # A fork would share torch's threads, which do not survive it.
        context = multiprocessing.get_context("spawn")
        self.run: Run | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        # Sent, not an argument: starting a process would wait forever for one that died before it read long arguments.
        self._send(setup)

    def start(self, run: Run) -> None:
        """Have a run made."""
        self.run = run
        self._send(run)

    def listen(self) -> float | str | _Ended | None:
        """The next thing that it says."""
        try:
            said: float | str | None = self.connection.recv()
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
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where they could not be held
    with quiet(), contextlib.suppress(EOFError, ConnectionError):  # the process that started it is gone
        setup = connection.recv()
        while True:
            run = connection.recv()
            try:
                make_elsewhere(setup, run, _watch(run, lambda _, part: connection.send(part)))
            except ConnectionError:
                raise
            except Exception as error:
                connection.send(_reason(error, run))
            else:
                connection.send(None)


class Ray:
    """A Ray cluster, each run on one CPU. One that is running is joined, else one is started on this machine.

    Every machine must see the study's folder and the model under the same paths.
    """

    def __init__(self, setup: Setup) -> None:
        self._ray = _ray_module()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        self._setup = self._ray.put(setup)
        self._task = self._ray.remote(num_cpus=1, max_retries=MOST_TRIES - 1)(_make_quietly)

    def make(self, runs: Sequence[Run], progress: Progress) -> Failures:
        """Make runs."""
        pending = {self._task.remote(self._setup, run): run for run in runs}
        failures: Failures = {}
        for run in runs:
            progress(run, 0.0)
        while pending:
            (ready,), _ = self._ray.wait(list(pending), num_returns=1)
            run = pending.pop(ready)
            try:
                said = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                said = f"its process ended {MOST_TRIES} times before it was made ({first_line(error)})"
            if said is not None:
                failures[run] = said
            progress(run, 1.0)
        return failures

    def close(self) -> None:
        """Leave the cluster, or end it where it was started here."""
        if self._started:
            self._ray.shutdown()


def _make_quietly(setup: Setup, run: Run) -> str | None:
    """None, or why the run was not made."""
    try:
        with quiet():
            make_elsewhere(setup, run, lambda done, total: None)
    except Exception as error:
        return _reason(error, run)
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


def _watch(run: Run, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(run, min(0.99, done / max(1, total)))


def _reason(error: Exception, run: Run) -> str:
    if isinstance(error, DipcError):
        return str(error)
    log.warning("%s", run.pipeline, exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"
