"""Backends run, export or price a compiled program: one file each, and helpers whose names begin with `_`."""

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
