"""The optional native kernels: a C library loaded with ctypes, and typed numpy wrappers around its functions.

Nothing in dipc needs the library: every kernel has a reference that gives the same bits. Callers ask `library()` first.
"""

from __future__ import annotations

from dipc.native.cache_scan import (
    POLICIES,
    cache_replay,
    covers_scan,
    covers_topk,
    select_cache_aware,
    select_topk,
)
from dipc.native.loader import ABI_VERSION, describe, library

__all__ = [
    "ABI_VERSION",
    "POLICIES",
    "cache_replay",
    "covers_scan",
    "covers_topk",
    "describe",
    "library",
    "select_cache_aware",
    "select_topk",
]
