"""The finished runs of a study. What a run gave serves every price of it.

A run of a method that knows of no cache depends on the text alone: every DRAM, flash and policy is a replay of its
trace. A run of a cache-aware method depends on the units that its DRAM leaves room for as well, and on its policy.

    FOLDER/about.json          the model and the text; a study of others is refused
           runs/*.json         what each run gave, named by what that depends on
           runs/*.safetensors  its trace
           study.json          the last study
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from dipc.documents import JsonObject
from dipc.files import file_lock
from dipc.input_file import is_there
from dipc.ir.program import Program
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.pipeline.text import parse_pipeline
from dipc.studies.engine.code import code_of, model_of
from dipc.studies.engine.folder import Folder, Layout
from dipc.studies.study.measure import Measured, StudyRun, measure
from dipc.text import Text

STUDY = Layout("study", "about.json", "runs")


class StudyStore:
    """The finished runs of a folder.

    Args:
        folder: that keeps them.
        program: the dense model.
        text: what is measured on.
        windows: of it.
    """

    def __init__(self, folder: Folder, program: Program, text: Text, windows: TextSpec) -> None:
        self._folder = folder
        self._shared = {**model_of(program), "text": text.digest, **vars(windows)}
        self._keys: dict[StudyRun, JsonObject] = {}

    def read(self, run: StudyRun) -> Measured | None:
        """Return what a run gave; None where it was not made."""
        found = self._folder.read_as(Measured, run.label, self._depends_on(run))
        return found if found is None or not found.traced or is_there(self._trace(run)) else None

    def trace(self, run: StudyRun) -> Trace:
        """Return the activity of a run that was made and has one."""
        return Trace.load(self._trace(run), mapped=True)

    def keep(self, run: StudyRun, measured: Measured, trace: Trace | None) -> None:
        """Keep a run: the trace first, for what has figures is finished."""
        if trace is not None:
            trace.save(self._trace(run))
        self._folder.keep(run.label, self._depends_on(run), vars(measured))

    def claim(self, run: StudyRun) -> AbstractContextManager[None]:
        """Return a context in which no other process makes this run."""
        return file_lock(self._file(run).with_suffix(".lock"))

    def _file(self, run: StudyRun) -> Path:
        return self._folder.file(run.label, self._depends_on(run))

    def _trace(self, run: StudyRun) -> Path:
        return self._file(run).with_suffix(".safetensors")

    def _depends_on(self, run: StudyRun) -> JsonObject:
        """Return what a run depends on; files that its passes name are read once."""
        if run not in self._keys:
            passes = parse_pipeline(run.pipeline) if run.pipeline else []
            capacities = ",".join(f"{site}={units}" for site, units in run.capacities)
            digest = hashlib.sha256(capacities.encode()).hexdigest()[:16] if capacities else None
            self._keys[run] = {**self._shared, "capacities": digest, **code_of(passes, measure)}
        return self._keys[run]
