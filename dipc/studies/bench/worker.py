"""The process of one candidate: sets up, then times its cases when told to, and is idle in between.

Run as `python -m dipc.studies.bench.worker`. It reads requests from stdin and writes replies to stdout, one JSON object
a line. Whatever else the candidate prints goes to stderr. The process imports the candidate's file and what that needs;
this file needs no more than numpy.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO, get_type_hints

from dipc.errors import MissingDependency
from dipc.studies.bench.candidates.case import Case, Cases

IDLE_S = 0.01
LONGEST_WAIT_S = 1.0


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
                case = cases[request["time"]]
                _send(replies, _take_turn(case, request["first"], request["calls"], request["warmup"]))
        except Exception as error:
            _send(replies, {"failed": _one_line(error), "absent": isinstance(error, MissingDependency | ImportError)})


def _set_up(setup: str, arguments: Mapping[str, Any]) -> Cases:
    module, _, name = setup.partition(":")
    function: Callable[..., Cases] = getattr(importlib.import_module(module), name)
    kinds = get_type_hints(function)
    given = {key: kinds[key](**v) if dataclasses.is_dataclass(kinds.get(key)) else v for key, v in arguments.items()}
    cases = function(**given)
    _wait_until_idle()
    return cases


def _answer(case: Case) -> list[float] | None:
    answer = case.call(0)
    _wait_until_idle()
    return None if answer is None else [float(v) for v in answer.reshape(-1)]


def _take_turn(case: Case, first: int, calls: int, warmup: int) -> dict[str, object]:
    """Return the seconds of each call, and whether the process was idle again before this returned."""
    for number in range(first, first + warmup):
        case.call(number)
    seconds = []
    for number in range(first + warmup, first + warmup + calls):
        start = time.perf_counter()
        case.call(number)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "idle": _wait_until_idle()}


def _wait_until_idle() -> bool:
    """Wait until none of the process's threads spins: until it uses next to no processor time."""
    deadline = time.perf_counter() + LONGEST_WAIT_S
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(IDLE_S)
        if time.process_time() - before < IDLE_S / 10:
            return True
    return False


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _send(replies: TextIO, reply: Mapping[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
