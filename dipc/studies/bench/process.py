"""A contender's process, seen from the one that runs the contest."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Contender:
    """A process that takes part.

    Attributes:
        name: what results call it.
        setup: "module:function"; called in the process with `arguments`, it returns the `Cases`.
        arguments: values that JSON can hold.
    """

    name: str
    setup: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Lost(Exception):
    """The process failed at a request, or is gone. The message is one line."""

    def __init__(self, reason: str, *, absent: bool = False, gone: bool = False) -> None:
        super().__init__(reason)
        self.absent, self.gone = absent, gone


class Worker:
    """Starts the process; `ask` sends a request and waits for the reply.

    Args:
        contender: what to run. It is set up with a request of its own (`set_up`).
        threads: how many the process's OpenMP may use.
        timeout_s: a request that takes longer loses the contender.
    """

    def __init__(self, contender: Contender, threads: int, timeout_s: float) -> None:
        self.contender, self.timeout_s = contender, timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
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

    def set_up(self) -> dict[str, dict[str, float]]:
        """The contender's cases: name -> repeats and bytes_read. Raises Lost."""
        reply = self.ask({"setup": self.contender.setup, "arguments": dict(self.contender.arguments)})
        cases: dict[str, dict[str, float]] = reply["cases"]
        return cases

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its reply. Raises Lost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=self.timeout_s)
        except queue.Empty:
            self._process.kill()
            raise Lost(f"no reply within {self.timeout_s:g} s", gone=True) from None
        except OSError:
            line = None
        if line is None:
            raise Lost(self._last_words(), gone=True)
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise Lost(reply["failed"], absent=reply["absent"])
        return reply

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()
        # What was buffered for a process that is gone cannot be written.
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as replies:
            for line in replies:
                self._replies.put(line)
        self._replies.put(None)

    def _last_words(self) -> str:
        """How the process ended, and the last line that it printed."""
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
