"""The machine that figures were measured on: they mean little without it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dipc import native
from dipc.version import __version__

PACKAGES = ("torch", "onnxruntime", "numpy")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Machine:
    """The machine and the software.

    Attributes:
        processor: its name.
        physical_cores: those that this process may run on.
        logical_cores: with their hardware threads.
        last_cache_bytes: the processor's last-level cache, or None where the system does not say.
        memory_bytes: or None.
        instruction_set: what dipc's kernels use, or why there are none.
        system: operating system.
        load: processes that wanted to run in the last minute, or None; much above 0 the machine was not quiet.
        versions: of Python, dipc and the packages that take part.
        gpu: the name of torch's current GPU, or None.
    """

    processor: str
    physical_cores: int
    logical_cores: int
    last_cache_bytes: int | None
    memory_bytes: int | None
    instruction_set: str
    system: str
    load: float | None
    versions: dict[str, str]
    gpu: str | None = None


def describe_machine() -> Machine:
    """Describe this machine, now."""
    return Machine(
        processor_name(),
        physical_cores(),
        _logical_cores(),
        last_cache_bytes(),
        memory_bytes(),
        _instruction_set(),
        platform.platform(),
        os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        _versions(),
        _gpu(),
    )


def processor_name() -> str:
    """Return the processor's name as Linux tells it, else as Python does."""
    names = [value for key, value in _cpu_info() if key == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def physical_cores() -> int:
    """Count the cores that this process may run on, hardware threads of one core once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores: set[tuple[str, str]] = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(tuple((topology / f).read_text() for f in ("physical_package_id", "core_id")))  # type: ignore[arg-type]
        except OSError:
            return len(allowed)
    return max(len(cores), 1)


def last_cache_bytes() -> int | None:
    """Return the size of the largest cache of the first core."""
    sizes = []
    for file in _CACHES.glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K"):
            sizes.append(1024 * int(text[:-1]))
    return max(sizes, default=None)


def memory_bytes() -> int | None:
    """Return the size of all memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _logical_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_info() -> list[tuple[str, str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _instruction_set() -> str:
    return native.describe() if native.library() is None else native.instruction_set()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "dipc": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
