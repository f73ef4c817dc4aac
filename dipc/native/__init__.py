"""The optional native kernels: a C library loaded with ctypes, and typed numpy wrappers around its functions.

Nothing in dipc needs the library: every kernel has a reference in torch. Callers ask `library()` first.
"""

from __future__ import annotations

from dipc.native.cache_replay import SiteCaches, replay_ahead
from dipc.native.cache_scan import State, covers_scores, select_cache_aware, select_topk
from dipc.native.loader import ABI_VERSION, describe, library
from dipc.native.unit_products import (
    ACTIVATIONS,
    Bools,
    Buffer,
    Floats,
    UnitMatrix,
    gather_glu,
    gather_linear,
    instruction_set,
    row_linear,
    set_threads,
    widen,
)

__all__ = [
    "ABI_VERSION",
    "ACTIVATIONS",
    "Bools",
    "Buffer",
    "Floats",
    "SiteCaches",
    "State",
    "UnitMatrix",
    "covers_scores",
    "describe",
    "gather_glu",
    "gather_linear",
    "instruction_set",
    "library",
    "replay_ahead",
    "row_linear",
    "select_cache_aware",
    "select_topk",
    "set_threads",
    "widen",
]
