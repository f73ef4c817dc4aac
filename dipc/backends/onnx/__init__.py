"""The ONNX backend: a program becomes one file that every ONNX Runtime runs, and dipc's kernels run faster.

What needs torch, or the packages that write ONNX, is imported where it is used: `dipc env` asks for ONNX Runtime alone,
and so do the processes that measure it.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dipc.backends._backend import Ability, Backend, Export, RunOptions
from dipc.backends.onnx.runtime import MODEL, onnxruntime_module
from dipc.errors import BadFile, MissingDependency

if TYPE_CHECKING:
    from dipc.backends._session import Session
    from dipc.ir.program import Program


class Onnx(Backend):
    """Writes a program as an ONNX model, and runs it in ONNX Runtime with dipc's kernels or by its function bodies."""

    flags = frozenset({"kernels", "threads", "exported"})
    runtime = "ONNX Runtime"
    lowering = "pack"

    def require(self, ability: Ability) -> None:
        """Check that onnxruntime is there to run, or onnx and onnxscript to export."""
        super().require(ability)
        if ability == "run":
            onnxruntime_module()
        absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if ability == "export" and absent:
            raise MissingDependency(f"exporting needs {' and '.join(absent)}: pip install 'dipc[onnx]'")

    @contextmanager
    def open(self, program: Program, options: RunOptions | None = None, *, record: bool = False) -> Iterator[Session]:
        """Give a session of the program's own export, or of one that is made, packed, for as long as the context."""
        from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

        self.require("run")
        options = options or RunOptions()
        runtime = RuntimeOptions(options.kernels, options.threads)
        if options.exported is not None:
            session = OnnxSession(options.exported, record=record, options=runtime, tokenizer=program.tokenizer)
            _check_same(session, program)
            yield session
            return
        from dipc.pipeline.runner import run_pipeline
        from dipc.pipeline.text import parse_pipeline

        with tempfile.TemporaryDirectory(prefix="dipc-onnx-", ignore_cleanup_errors=True) as folder:
            lowered = run_pipeline(program, parse_pipeline(self.lowering), allow_noop=True).program
            self.export(lowered, Path(folder) / "onnx")
            yield OnnxSession(Path(folder) / "onnx", record=record, options=runtime, tokenizer=program.tokenizer)

    def recognises(self, path: Path) -> bool:
        """Return whether the path is an ONNX file, or the folder of a `model.onnx`."""
        return path.suffix == ".onnx" or (path / MODEL).is_file()

    def open_export(self, path: Path, options: RunOptions) -> Session:
        """Return a session of an exported model by itself."""
        from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

        return OnnxSession(path, options=RuntimeOptions(options.kernels, options.threads))

    def export(self, program: Program, folder: Path, *, pipeline: str = "") -> Export:
        """Write `model.onnx` with its tokenizer's files; see `dipc.backends.onnx.export`."""
        self.require("export")
        from dipc.backends.onnx.export import export

        return export(program, folder, pipeline=pipeline)


def _check_same(session: Session, program: Program) -> None:
    has = session.identity
    if (has.digest, has.method) != (program.info.digest, program.method):
        made = has.method.options or has.method.name
        raise BadFile(f"the exported model is of {has.name} with {made}, not of this program; export it again")
