"""Candidates of contests in tests; each function runs in a process of its own."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dipc.errors import MissingDependency
from dipc.studies.bench.candidates.case import Case, Cases


def sleeper(*, seconds: float, repeats: int = 1) -> Cases:
    """A case that takes its time and answers with the number of its call, and one that says how many threads it has."""

    def call(number: int) -> Any:
        time.sleep(seconds)
        return np.array([number, number + 1])

    threads = np.array([int(os.environ["OMP_NUM_THREADS"])])
    return {"sleep": Case(call, repeats, 1000.0), "threads": Case(lambda number: threads)}


def talker() -> Cases:
    """One that prints where replies are written."""
    print("not a reply")
    return {"sleep": Case(lambda number: None)}


def absent() -> Cases:
    """One that lacks what it needs."""
    raise MissingDependency("nothing here;\n install it")


def raises_later() -> Cases:
    """One of whose cases fails in a later round."""

    def call(number: int) -> None:
        if number > 3:
            raise ValueError("a\nproblem")

    return {"bad": Case(call), "good": Case(lambda number: None)}


def dies() -> Cases:
    """One that takes its process with it."""

    def call(number: int) -> None:
        if number:
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)

    return {"first": Case(lambda number: None), "last": Case(call)}


def dies_at_once() -> Cases:
    """One that takes its process with it when it is asked for its first answer."""

    def call(number: int) -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(7)

    return {"first": Case(call), "second": Case(call), "third": Case(call)}


def leaves_a_file() -> Cases:
    """One that says where its temporary files lie, as numbers, and leaves one there."""
    Path(tempfile.gettempdir(), "left").write_text("left")
    return {"folder": Case(lambda number: np.frombuffer(tempfile.gettempdir().encode(), np.uint8))}


def hangs() -> Cases:
    """One that never comes back."""

    def call(number: int) -> None:
        time.sleep(60)

    return {"hang": Case(call)}
