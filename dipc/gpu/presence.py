"""Try, once per process, whether the kernels run here."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

from dipc.gpu.arguments import Rule, State


def kernels() -> ModuleType | None:
    """Return the file of the kernels, or None where they do not run."""
    return _tried()[0]


def describe() -> str:
    """Return one line for `dipc env`: what they run on, or why they do not."""
    return _tried()[1]


@functools.cache
def _tried() -> tuple[ModuleType | None, str]:
    if importlib.util.find_spec("triton") is None:
        return None, "absent: Triton is not installed; torch's builds for CUDA bring it"
    import torch

    if not torch.cuda.is_available():
        return None, "absent: torch sees no CUDA device"
    try:
        import triton

        from dipc.gpu import cache_scan

        one = torch.zeros(1, dtype=torch.int64, device="cuda")
        state = State(one.byte(), one, one, one[0])
        cache_scan.scan(one.view(1, 1).float(), one.byte(), state, Rule(0, 1, True, True, False), 1, 1, 0.5)
    # Triton wants a C compiler, Python's headers and a GPU that it knows; errors of any kind tell what it lacks.
    except Exception as error:
        return None, f"absent: Triton does not run here ({' '.join(f'{type(error).__name__}: {error}'.split())})"
    return cache_scan, f"Triton {triton.__version__} on {torch.cuda.get_device_name()}"
