"""Where ONNX Runtime finds the kernels: the native library is also a library of custom operators."""

from __future__ import annotations

from pathlib import Path

from dipc.errors import MissingDependency
from dipc.native.loader import describe, library


def onnx_library_path() -> Path:
    """The library to give to `onnxruntime.SessionOptions.register_custom_ops_library`, as a string.

    A model that dipc exported runs without it too, only slower: on its function bodies.

    Raises:
        MissingDependency: no library was built, or it is switched off.
    """
    found = library()
    if found is None:
        raise MissingDependency(f"the kernels for ONNX Runtime need dipc's native library, which is {describe()}")
    return Path(found._name).resolve()
