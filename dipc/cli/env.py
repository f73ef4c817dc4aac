"""`dipc env`: what dipc runs on, for a report of a problem."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, entry_points, version

from dipc.cli.terminal import Debug, Json, Plugins, show, show_json

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "onnx", "onnxscript", "onnxruntime")


def command(plugin: Plugins = None, json: Json = False, debug: Debug = False) -> None:
    """Show versions, processor and plug-ins."""
    from dipc.backends.onnx.runtime import describe_kernels
    from dipc.documents import document
    from dipc.gpu.presence import describe as describe_gpu
    from dipc.native import describe
    from dipc.quantities import NONE
    from dipc.report.table import facts
    from dipc.studies.bench.machine import processor_name
    from dipc.version import __version__

    rows = {"dipc": __version__, "python": f"{platform.python_version()} ({platform.python_implementation()})"}
    rows |= {package: _version(package) for package in PACKAGES}
    rows["native library"] = describe()
    rows["GPU kernels"] = describe_gpu()
    rows["ONNX kernels"] = describe_kernels()
    rows["system"] = platform.platform()
    rows["processor"] = f"{processor_name()}, {os.cpu_count()} logical cores"
    plugins = [*_installed(), *(f"{file} (--plugin)" for file in plugin or [])]
    if json:
        show_json(document("env", **{k.lower().replace(" ", "_"): v for k, v in rows.items()}, plugins=plugins))
    else:
        show([facts("", [*rows.items(), ("plug-ins", ", ".join(plugins) or NONE)])])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _installed() -> list[str]:
    """List what offers itself under the entry-point group, without loading it."""
    found = []
    for entry in entry_points(group="dipc.plugins"):
        dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        found.append(f"{entry.name} ({dist})")
    return found
