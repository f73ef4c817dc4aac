"""The limit of all kernels: reading memory, and nothing else, as fast as the machine lets all threads."""

from __future__ import annotations

import ctypes

import numpy as np

from dipc import native
from dipc.native.call import opened
from dipc.studies.bench.candidates.case import Case, Cases

READ = "memory, read"
CASE = "read"


def read_memory(*, size: int, repeats: int, threads: int) -> Cases:
    """Set up reading `size` bytes, `repeats` times in a call, never the same ones."""
    read = opened().dipc_read_bandwidth
    native.set_threads(threads)
    # Written, for a page that was never written is not memory.
    buffer = np.ones(size * repeats, np.uint8)

    seconds = ctypes.c_double()

    def call(number: int) -> None:
        # The pointer is asked of the buffer in the call, which so keeps it alive.
        pointer = ctypes.c_void_p(buffer.ctypes.data)
        if read(pointer, ctypes.c_int64(buffer.nbytes), ctypes.c_int64(1), ctypes.byref(seconds)):
            raise MemoryError("the native library ran out of memory")

    return {CASE: Case(call, repeats, size)}
