"""The process of one contender: sets up, then times its cases when told to, and is at rest in between.

Run as `python -m dipc.studies.bench.worker`. It reads requests from stdin and writes replies to stdout, one JSON object a
line. Whatever else the contender prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

from dipc.errors import MissingDependency
from dipc.studies.bench.case import Case, Cases

REST_S = 0.01
LONGEST_REST_S = 1.0


def main() -> None:
    """Serve until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    cases: Cases = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "setup" in request:
                cases = _set_up(request["setup"], request["arguments"])
                reply = {name: {"repeats": c.repeats, "bytes_read": c.bytes_read} for name, c in cases.items()}
                _send(replies, {"cases": reply})
            elif "answer" in request:
                _send(replies, {"answer": _answer(cases[request["answer"]])})
            else:
                _send(replies, _timed(cases[request["time"]], request["first"], request["calls"], request["warmup"]))
        except Exception as error:
            _send(replies, {"failed": _one_line(error), "absent": isinstance(error, MissingDependency | ImportError)})


def _set_up(setup: str, arguments: dict[str, Any]) -> Cases:
    module, _, function = setup.partition(":")
    cases: Cases = getattr(importlib.import_module(module), function)(**arguments)
    _come_to_rest()
    return cases


def _answer(case: Case) -> list[float] | None:
    answer = case.call(0)
    _come_to_rest()
    return None if answer is None else [float(v) for v in answer.reshape(-1)]


def _timed(case: Case, first: int, calls: int, warmup: int) -> dict[str, Any]:
    """Seconds of each call; `rested` says whether the process was idle again before this returned."""
    for number in range(first, first + warmup):
        case.call(number)
    seconds = []
    for number in range(first + warmup, first + warmup + calls):
        start = time.perf_counter()
        case.call(number)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "rested": _come_to_rest()}


def _come_to_rest() -> bool:
    """Wait until none of the process's threads spins: until it uses next to no processor time."""
    deadline = time.perf_counter() + LONGEST_REST_S
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(REST_S)
        if time.process_time() - before < REST_S / 10:
            return True
    return False


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
