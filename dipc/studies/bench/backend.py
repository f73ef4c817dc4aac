"""The backends that run programs, in the contests that let one be chosen."""

from __future__ import annotations

from contextlib import suppress

from dipc.backends import BACKENDS, get_backend
from dipc.errors import MissingDependency, UsageError
from dipc.ir.placement import choose_device


def check_backend(name: str) -> None:
    """Raise UnknownName or UsageError for no backend that runs programs.

    A package that it lacks is left to the candidates, whose failures say so.
    """
    with suppress(MissingDependency):
        get_backend(name, "run")


def check_device(backend: str, device: str) -> None:
    """Raise UsageError where the backend takes no device, or there is no such device."""
    if "device" not in BACKENDS.get(backend).flags:
        takers = [name for name in BACKENDS.names() if "device" in BACKENDS.get(name).flags]
        raise UsageError(f"the backend {backend} takes no device; {' and '.join(takers)} does")
    choose_device(device)


def runtime_of(name: str) -> str:
    """Return what a backend runs programs in, as a title says it."""
    return BACKENDS.get(name).runtime or f"the backend {name}"
