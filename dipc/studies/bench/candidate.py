"""A candidate: a process that takes part in a contest, seen from the one that runs the contest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dipc.studies.bench.candidates.case import Cases

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Candidate:
    """A process that takes part.

    Attributes:
        name: what results call it.
        setup: "module:function"; called in the process with `arguments`, it returns the `Cases`.
        arguments: values that JSON can hold, and dataclasses of such.
    """

    name: str
    setup: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def calling(cls, name: str, setup: Callable[..., Cases], /, **arguments: object) -> Candidate:
        """Name a candidate that is set up by a function of a module."""
        return cls(name, f"{setup.__module__}:{setup.__name__}", arguments)


@dataclass(frozen=True)
class CaseFacts:
    """The worker's word on a case: how many of what is measured one call does, and the bytes that one of them reads."""

    repeats: int
    bytes_read: float


@dataclass(frozen=True)
class Turn:
    """The seconds of each timed call, and whether the process was seen idle after them."""

    seconds: tuple[float, ...]
    idle: bool


class CandidateLost(Exception):
    """The process failed at a request, or is gone. The message is one line."""

    def __init__(self, reason: str, *, absent: bool = False, gone: bool = False) -> None:
        super().__init__(reason)
        self.absent, self.gone = absent, gone


class CandidateProcess:
    """The process of a candidate, started at once. Every request waits for its reply and raises CandidateLost.

    Args:
        candidate: what to run; the first request has to be `set_up`.
        threads: how many the process's OpenMP may use.
        timeout_s: a request that takes longer loses the candidate.
    """

    def __init__(self, candidate: Candidate, threads: int, timeout_s: float) -> None:
        self.candidate, self.timeout_s = candidate, timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # A process is ended where it stands, so what it wrote is removed from here.
        self._folder = tempfile.TemporaryDirectory(prefix="dipc-bench-", ignore_cleanup_errors=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environment["TMPDIR"] = self._folder.name
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dipc.studies.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            encoding="utf-8",
        )
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def set_up(self) -> dict[str, CaseFacts]:
        """Set the candidate up and return its cases."""
        reply = self._ask({"setup": self.candidate.setup, "arguments": dict(self.candidate.arguments)})
        return {name: CaseFacts(**facts) for name, facts in reply["cases"].items()}

    def answer(self, case: str) -> tuple[float, ...] | None:
        """Call a case once, untimed, and return its answer."""
        answer = self._ask({"answer": case})["answer"]
        return None if answer is None else tuple(answer)

    def take_turn(self, case: str, first: int, calls: int, warmup: int) -> Turn:
        """Call a case `warmup` times untimed and `calls` times timed, with running numbers from `first` on."""
        reply = self._ask({"time": case, "first": first, "calls": calls, "warmup": warmup})
        return Turn(tuple(reply["seconds"]), reply["idle"])

    def close(self) -> None:
        """End the process, and remove its temporary files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()
        self._folder.cleanup()
        # What was buffered for a process that is gone cannot be written.
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request, default=dataclasses.asdict) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=self.timeout_s)
        except queue.Empty:
            self._process.kill()
            raise CandidateLost(f"no reply within {self.timeout_s:g} s", gone=True) from None
        except OSError:
            line = None
        if line is None:
            raise CandidateLost(self._last_words(), gone=True)
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise CandidateLost(reply["failed"], absent=reply["absent"])
        return reply

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as replies:
            for line in replies:
                self._replies.put(line)
        self._replies.put(None)

    def _last_words(self) -> str:
        """Say how the process ended, and the last line that it printed."""
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{how}: {said[-1]}" if said else how


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name
