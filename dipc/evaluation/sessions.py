"""Opening a program for running, by whichever backend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from dipc.backends._session import Session
from dipc.backends.eager import EagerSession
from dipc.backends.onnx.runtime import Kernels, onnxruntime_module
from dipc.errors import BadFile, UnknownName
from dipc.ir.program import Program

__all__ = ["BACKENDS", "Backend", "Kernels", "is_exported", "open_session"]

Backend = Literal["eager", "onnx"]
BACKENDS = ("eager", "onnx")


def is_exported(path: Path) -> bool:
    """Whether the path is an exported model: an ONNX file, or the folder of a `model.onnx`."""
    return path.suffix == ".onnx" or (path / "model.onnx").is_file()


@contextmanager
def open_session(
    program: Program,
    backend: str = "eager",
    *,
    kernels: Kernels = "auto",
    exported: Path | None = None,
    record: bool = False,
) -> Iterator[Session]:
    """A session that runs a program, for as long as the context lasts.

    Args:
        program: with weights.
        backend: `eager` runs it in torch, `onnx` in ONNX Runtime.
        kernels: with `onnx`: dipc's kernels where they can be had ("auto"), demanded (True) or left out (False).
        exported: with `onnx`: the program's own export; by default it is packed and exported to a folder of its own.
        record: also return every site's masks.

    Raises:
        UsageError: a backend that does not run programs, or a program without weights.
        BadFile: `exported` is of another program.
        MissingDependency: no onnxruntime, or kernels are demanded and cannot be had.
    """
    if backend not in BACKENDS:
        raise UnknownName("backend that runs programs", backend, BACKENDS)
    if backend == "eager":
        yield EagerSession(program, record=record)
        return
    from dipc.backends.onnx.session import OnnxSession, Options

    options = Options(kernels)
    if exported is not None:
        session = OnnxSession(exported, record=record, options=options, tokenizer=program.tokenizer)
        _check_same(session, program)
        yield session
        return
    from dipc.backends.onnx.export import export
    from dipc.pipeline.runner import make_pass

    onnxruntime_module()  # is asked for before the work of an export is done for nothing
    with tempfile.TemporaryDirectory(prefix="dipc-onnx-", ignore_cleanup_errors=True) as folder:
        export(make_pass("pack", {}).run(program).program, Path(folder) / "onnx")
        yield OnnxSession(Path(folder) / "onnx", record=record, options=options, tokenizer=program.tokenizer)


def _check_same(session: Session, program: Program) -> None:
    has = session.identity
    if (has.digest, has.method) != (program.info.digest, program.method):
        made = has.method.options or has.method.name
        raise BadFile(f"the exported model is of {has.name} with {made}, not of this program; export it again")
