"""Run, export or price a compiled program: a backend is one file, and helpers begin with `_`."""

from __future__ import annotations

from dipc.backends._backend import (
    BACKENDS,
    Ability,
    Backend,
    Export,
    Kernels,
    RunOptions,
    exporter_of,
    get_backend,
)

__all__ = ["BACKENDS", "Ability", "Backend", "Export", "Kernels", "RunOptions", "exporter_of", "get_backend"]
