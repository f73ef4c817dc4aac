"""The code that a run's figures depend on, as digests: a run is made again when any of it has changed.

dipc's own code counts as one, whatever a run makes use of: every source file below the studies. What is a file of its
own by design (a pass, an eviction policy, a plug-in) counts only for the runs that use it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import torch

from dipc.cache.policy import get_policy
from dipc.documents import JsonObject
from dipc.files import code_digest, file_digest
from dipc.ir.operators import OPERATORS
from dipc.ir.program import Program
from dipc.native.loader import library
from dipc.pipeline.fingerprint import options_by_content
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.version import __version__

_ROOT = Path(__file__).parents[2]
_SOURCES = (".py", ".cc", ".h")
_BY_USE = ("passes", "cache/policies")
"""Folders whose files count for the runs that use them."""
_ABOVE = ("api.py", "cli", "demo", "report", "studies")
"""Files and folders that no run's figures come from; the studies' own measuring is named by `code_of`."""


@cache
def core_digest() -> str:
    """Return 16 hex digits of the SHA-256 of dipc's own sources, and of whether its native library is used."""
    made = hashlib.sha256(b"native" if library() is not None else b"torch")
    for file in sorted(path for path in _ROOT.rglob("*") if path.suffix in _SOURCES):
        name = file.relative_to(_ROOT).as_posix()
        if not any(name == left_out or name.startswith(f"{left_out}/") for left_out in (*_BY_USE, *_ABOVE)):
            made.update(name.encode())
            made.update(file.read_bytes())
    return made.hexdigest()[:16]


def code_of(passes: Iterable[Pass], *measured_by: Callable[..., object]) -> JsonObject:
    """Return what the figures of a pipeline depend on besides the model and the text, for the name of its file.

    Args:
        passes: of the pipeline, with all of their options.
        *measured_by: functions and classes whose files do the measuring.
    """
    return {
        "pipeline": [_described(item) for item in passes],
        "code": {
            "core": core_digest(),
            "measured by": [code_digest(item) for item in measured_by],
            "operators": _operators(),
        },
        "versions": {"dipc": __version__, "torch": torch.__version__},
    }


def model_of(program: Program) -> JsonObject:
    """Return what tells a dense model from others: its files and the type that it computes in."""
    return {"model": program.info.digest, "dtype": str(next(iter(program.weights.values())).dtype)}


def _described(item: Pass) -> JsonObject:
    """Return a pass by its name, its options by content, and the code of its file, its bases, its policy."""
    policy = getattr(item, "policy", None)
    kinds = [*_with_required(type(item)), *([] if policy is None else [type(get_policy(policy))])]
    code = {base.__module__: code_digest(base) for kind in kinds for base in _counted(kind)}
    return {"name": item.name, **options_by_content(item), "code": code}


def _with_required(kind: type[Pass]) -> Iterator[type[Pass]]:
    """Yield a pass and those that the runner puts before it."""
    yield kind
    for name in kind.requires:
        yield from _with_required(PASSES.get(name))


def _counted(kind: type) -> Iterator[type]:
    """Yield a class and its bases, but for those of dipc's core, which counts as one, and of Python."""
    for base in kind.__mro__:
        package, _, rest = base.__module__.partition(".")
        by_use = rest.startswith(tuple(folder.replace("/", ".") + "." for folder in _BY_USE))
        if by_use if package == "dipc" else package not in sys.stdlib_module_names:
            yield base


def _operators() -> dict[str, str]:
    """Return the files of plug-ins' operators: which of them a program has shows only when it is compiled."""
    files = {name: Path(where) for name, (_, where) in sorted(OPERATORS.added.items())}
    return {name: file_digest(file) for name, file in files.items() if file.is_file()}
