"""What runs a target, for the commands that run one: torch or ONNX Runtime, and with which kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.backends.onnx.session import OnnxSession
    from dipc.ir.program import Program

BackendName = Annotated[
    Literal["eager", "onnx"],
    typer.Option("--backend", help="Run in torch (eager) or in ONNX Runtime; the latter runs an exported folder too."),
]
NoKernels = Annotated[
    bool, typer.Option("--no-kernels", help="With --backend onnx: only what is in the file, no kernel of dipc.")
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="Of torch: auto (a GPU where there is one), cpu, cuda or cuda:N."),
]
EXPORT = "onnx"
"""The folder of an artifact in which its export is looked for."""


def open_running(
    target: str, backend: str, no_kernels: bool, device: str = "auto", **capture_options: Any
) -> tuple[Program | OnnxSession, dict[str, Any]]:
    """A target as a program, with the options of the library's call that run it, or an exported model by itself.

    Raises:
        UsageError: an exported model or `--no-kernels` without `--backend onnx`, or `--device` with it.
    """
    from dipc.artifact.writer import is_artifact
    from dipc.cli.target import open_target
    from dipc.evaluation.sessions import is_exported

    kernels: Any = False if no_kernels else "auto"
    exported = is_exported(Path(target)) and not is_artifact(Path(target))
    if backend != "onnx":
        if no_kernels:
            raise UsageError("--no-kernels: this is for --backend onnx")
        if exported:
            raise UsageError(f"{target}: this is an exported model; run it with --backend onnx")
        from dipc.ir.placement import choose_device, place

        where = choose_device(device)
        return place(open_target(target, **capture_options).program, where), {}
    if device != "auto":
        raise UsageError("--device: this is for --backend eager")
    if exported:
        from dipc.backends.onnx.session import OnnxSession, Options

        return OnnxSession(target, options=Options(kernels)), {}
    beside = Path(target) / EXPORT
    options = {"backend": "onnx", "kernels": kernels, "exported": beside if is_exported(beside) else None}
    return open_target(target, **capture_options).program, options
