"""A way to run the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from dipc.cli import main


@dataclass
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout of a command that succeeded quietly."""
        assert (self.code, self.err) == (0, "")
        document: dict[str, Any] = json.loads(self.out)
        assert document["schema"] == 1
        return document

    def fails(self, code: int, *parts: str) -> None:
        """The command ended with this code and one line on stderr that has these parts."""
        assert self.code == code, self.err
        assert self.err.startswith("dipc: ")
        assert self.err.count("\n") == 1
        for part in parts:
            assert part in self.err


class Cli:
    """Runs `dipc` in this process, in a terminal of 80 columns that is a pipe."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *arguments: object) -> Result:
        """`dipc` with these arguments."""
        self.capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = self.capfd.readouterr()
        return Result(code, out, err)
