"""Find and load libdipc_native, once per process."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

ABI_VERSION = 6
"""The interface these wrappers speak: `kAbiVersion` in dipc_native.h, raised together with it."""

_FILE_NAME = "libdipc_native.dll" if sys.platform == "win32" else "libdipc_native.so"


def library() -> ctypes.CDLL | None:
    """Return the native library, or None where it is absent, unusable or switched off by DIPC_NATIVE=0."""
    return None if _switched_off() else _load()[0]


def describe() -> str:
    """Return one line for `dipc env`: the library's path and version, or why there is none."""
    return "absent: switched off by DIPC_NATIVE=0" if _switched_off() else _load()[1]


def _switched_off() -> bool:
    return os.environ.get("DIPC_NATIVE") == "0"


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    path = _find()
    if path is None:
        return None, f"absent: no {_FILE_NAME} was built; reinstall dipc with a C++17 compiler to have it"
    return _open(path)


def _find() -> Path | None:
    # An editable install leaves the sources where they are and puts the library into site-packages; the package's
    # search path then holds both folders.
    folders = (Path(folder) for folder in sys.modules[__name__.rpartition(".")[0]].__path__)
    return next((folder / _FILE_NAME for folder in folders if (folder / _FILE_NAME).is_file()), None)


def _open(path: Path) -> tuple[ctypes.CDLL | None, str]:
    try:
        opened = ctypes.CDLL(str(path))
        version = int(opened.dipc_abi_version())
    except (OSError, AttributeError) as error:
        return None, f"absent: {path} cannot be loaded ({error}); reinstall dipc"
    if version != ABI_VERSION:
        return None, f"absent: {path} has ABI version {version}, dipc needs {ABI_VERSION}; reinstall dipc"
    _declare(opened)
    return opened, f"{path} (ABI version {version})"


def _declare(opened: ctypes.CDLL) -> None:
    size, pointer, number, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    opened.dipc_select_cache_aware.argtypes = [*[pointer] * 6, *[size] * 4, real, number, pointer]
    opened.dipc_select_cache_aware.restype = number
    opened.dipc_select_topk.argtypes = [*[pointer] * 2, *[size] * 3, pointer]
    opened.dipc_select_topk.restype = number
    opened.dipc_replay_open.argtypes = [size, pointer, pointer, size, pointer, pointer]
    opened.dipc_replay_open.restype = number
    opened.dipc_replay_run.argtypes = [pointer, pointer, size, pointer, pointer]
    opened.dipc_replay_run.restype = number
    opened.dipc_replay_close.argtypes = [pointer]
    opened.dipc_replay_close.restype = None
    opened.dipc_replay_belady.argtypes = [pointer, size, size, pointer, pointer, size, pointer, pointer]
    opened.dipc_replay_belady.restype = number
    opened.dipc_gather_linear.argtypes = [*[pointer] * 4, size, pointer]
    opened.dipc_gather_linear.restype = number
    opened.dipc_gather_glu.argtypes = [*[pointer] * 4, ctypes.c_int32, size, pointer]
    opened.dipc_gather_glu.restype = number
    opened.dipc_row_linear.argtypes = [*[pointer] * 4, size, pointer]
    opened.dipc_row_linear.restype = number
    opened.dipc_widen.argtypes = [*[pointer] * 2]
    opened.dipc_widen.restype = number
    opened.dipc_set_threads.argtypes = [ctypes.c_int32]
    opened.dipc_set_threads.restype = number
    opened.dipc_threads.argtypes = []
    opened.dipc_threads.restype = ctypes.c_int32
    opened.dipc_isa.argtypes = []
    opened.dipc_isa.restype = ctypes.c_char_p
