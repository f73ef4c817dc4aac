"""Making one cell: what its figures depend on, and what becomes of a method that cannot be measured."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dipc.backends.session import Session
from dipc.comparison.entries import Entry
from dipc.comparison.folder import Folder, file_digest
from dipc.comparison.measure import measure, of_dense
from dipc.comparison.result import Figures, Row
from dipc.errors import DipcError, UnsupportedModel, UsageError
from dipc.pipeline import Pass, parse_pipeline, run_pipeline, with_calibration
from dipc.program import Program
from dipc.text import Text
from dipc.tracer import first_line
from dipc.version import __version__

Progress = Callable[[float, int, str], None]
log = logging.getLogger("dipc.comparison")


@dataclass
class Cells:
    """Everything that all cells of a comparison share, and how far it is.

    Attributes:
        program: the captured model, its MLPs outlined.
        dense: what runs it.
        folder: where finished cells are.
        text: what is measured on, in windows of `seq_len` tokens, `max_tokens` in all.
        calibration: the file that calibrated methods read, if there is one.
        total: cells in all.
        progress: called with cells done, cells in all, and the name of the one at work.
    """

    program: Program
    dense: Session
    folder: Folder
    text: Text
    seq_len: int
    max_tokens: int | None
    calibration: Path | None
    total: int
    progress: Progress | None = None
    done: int = 0

    def of_dense(self) -> Row:
        """The dense model's row. Its failure is everybody's, so it raises."""
        row = Row("dense", "dense", "dense", None, "")
        figures = self._kept(
            row, [], lambda watch: of_dense(self.program, self.dense, self.text, watch, **self._extent)
        )
        return dataclasses.replace(row, figures=figures)

    def of_entry(self, entry: Entry, density: float | None) -> Row:
        """A method's row at a density; a reason stands for figures that there are not."""
        row = Row(entry.name, entry.label, entry.kind, density, entry.pipeline(density))
        done = self.done
        try:
            return dataclasses.replace(row, figures=self._figures(row))
        except _Refused as error:
            return dataclasses.replace(row, reason=str(error))
        except Exception as error:
            log.warning("%s", row.pipeline, exc_info=True)
            reason = str(error) if isinstance(error, DipcError) else f"{type(error).__name__}: {first_line(error)}"
            return dataclasses.replace(row, reason=reason, failed=True)
        finally:
            self.done = done + 1

    @property
    def _extent(self) -> dict[str, Any]:
        return {"seq_len": self.seq_len, "max_tokens": self.max_tokens}

    def _figures(self, row: Row) -> Figures:
        try:
            passes = self.passes(row.pipeline)
        except (UsageError, UnsupportedModel) as error:
            raise _Refused(str(error)) from error

        def make(watch: Callable[[int, int], None]) -> Figures:
            try:
                program = run_pipeline(self.program, passes).program
            except (UsageError, UnsupportedModel) as error:
                raise _Refused(str(error)) from error
            return measure(program, self.program, self.dense, self.text, watch, **self._extent)

        return self._kept(row, passes, make)

    def passes(self, pipeline: str) -> list[Pass]:
        """The passes of a pipeline, those that take a calibration with the common one."""
        found = parse_pipeline(pipeline)
        return found if self.calibration is None else with_calibration(found, str(self.calibration))

    def _kept(self, row: Row, passes: list[Pass], make: Callable[[Callable[[int, int], None]], Figures]) -> Figures:
        """The cell's figures, from its file or made now and written there."""
        label = row.label if row.density is None else f"{row.label} {row.density:g}"
        self._say(label, 0.0)
        depends_on = {
            "what": "perplexity",
            "model": self.program.info.digest,
            "text": self.text.digest,
            **self._extent,
            "pipeline": [_described(item) for item in passes],
            "versions": {"dipc": __version__, "torch": torch.__version__},
        }
        held = self.folder.read(label, depends_on)
        if held is not None:
            return Figures(**{name: None if value is None else float(value) for name, value in held.items()})  # type: ignore[arg-type]
        figures = make(lambda done, total: self._say(label, done / total))
        self.folder.keep(label, depends_on, dataclasses.asdict(figures))
        return figures

    def _say(self, label: str, part: float) -> None:
        if self.progress is not None:
            self.progress(self.done + part, self.total, label)


class _Refused(Exception):
    """A method cannot do what was asked: no failure, and nothing that a second try would change."""


def _described(item: Pass) -> dict[str, Any]:
    """A pass by its name, its options and the code of its file; of a file that an option names, the content."""
    options = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    for name, value in options.items():
        if isinstance(value, str) and value and Path(value).exists():
            options[name] = file_digest(Path(value))
    return {"name": item.name, **options, "code": _code_digest(type(item))}


def _code_digest(kind: type[Pass]) -> str:
    return hashlib.sha256(inspect.getsource(inspect.getmodule(kind)).encode()).hexdigest()[:16]  # type: ignore[arg-type]
