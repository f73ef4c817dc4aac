"""Groups of the kernels' arguments: on the host tensors and numbers, in a kernel what Triton makes of them.

Shapes: T tokens, U units of a selection site.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class State(NamedTuple):
    """A site's cache between two tokens: what it holds, uint8[U], and int64 `freq`[U], `last_used`[U] and `t`[]."""

    cached: Any
    freq: Any
    last_used: Any
    t: Any


class Arrays(NamedTuple):
    """Tensors of a scan: scores [T,U], which tokens are dense, uint8[T], masks to write, uint8[T,U], and two states."""

    score: Any
    dense: Any
    mask: Any
    before: Any
    after: Any


class Rule(NamedTuple):
    """An eviction policy: what its key multiplies `freq` and `last_used + 1` by, and flags (dipc/cache/README.md)."""

    by_count: Any
    by_time: Any
    protects: Any
    counts: Any
    forgets: Any
