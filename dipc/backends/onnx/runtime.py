"""Open ONNX Runtime: the package, dipc's kernel library in it, and what its errors mean. Imports no torch."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dipc.backends._backend import Kernels
from dipc.errors import MissingDependency
from dipc.native.onnx_library import onnx_library_path

MODEL = "model.onnx"
"""The file of an export in its folder."""


def onnxruntime_module() -> Any:
    """The package. MissingDependency if it is absent, or too old to hand values over without a copy."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency("running ONNX needs onnxruntime; pip install 'dipc[onnx]'") from None
    if not hasattr(onnxruntime.OrtValue, "from_dlpack"):
        old = onnxruntime.__version__
        raise MissingDependency(f"onnxruntime {old} is older than dipc can drive; pip install 'dipc[onnx]'")
    return onnxruntime


def register_kernels(settings: Any, kernels: Kernels) -> Path | None:
    """Register dipc's kernel library with a session's settings.

    Args:
        settings: `onnxruntime.SessionOptions`.
        kernels: register it where that works ("auto"), always (True) or never (False).

    Returns:
        The library; None where function bodies are to run.

    Raises:
        MissingDependency: it is demanded, and absent or refused.
    """
    if kernels is False:
        return None
    problem = ""
    try:
        library = onnx_library_path()
        settings.register_custom_ops_library(str(library))
        return library
    except MissingDependency as error:
        problem = str(error)
    # ONNX Runtime's own errors have no base class but Exception.
    except Exception as error:
        problem = f"onnxruntime {version('onnxruntime')} refused dipc's kernel library: {reason(error)}; reinstall dipc"
    if kernels is True:
        raise MissingDependency(problem)
    return None


def describe_kernels() -> str:
    """One line for `dipc env`: whether ONNX Runtime takes the kernel library, or why not."""
    try:
        register_kernels(onnxruntime_module().SessionOptions(), True)
    except MissingDependency as error:
        return f"none: {error}"
    return "registered with onnxruntime"


def load_problem(error: Exception) -> str:
    """Say what an error of ONNX Runtime on opening a model means for whoever has the file."""
    text = str(error)
    absent = re.search(r'External data path does not exist: "?([^"]+)"?', text)
    if absent:
        name = Path(absent[1].strip()).name
        return f"its weights are not beside it; move {name} into the same folder or export again"
    if "out of bounds" in text or "can not be read in full" in text:
        return "its external data is shorter than it should be; copy it again or export again"
    if "INVALID_PROTOBUF" in text or "No graph was found" in text:
        return "damaged, or no ONNX model; export again"
    return f"onnxruntime {version('onnxruntime')} cannot load it: {reason(error)}"


def reason(error: Exception) -> str:
    """The words of an ONNX Runtime error, without its codes."""
    text = " ".join(str(error).split())
    return re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )+", "", text)[:400]
