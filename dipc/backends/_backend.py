"""The interface of a backend, and how one is found.

A backend is a class in a file of its name (`eager.py`, or `onnx/__init__.py` where it takes several files). What it can
do are the methods that it overrides: `open` runs a program, `export` writes it for another runtime, `price` says what
it would cost on a device.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dipc.errors import UnknownName, UsageError
from dipc.options import Flag, Options
from dipc.registry import ModuleRegistry, defined_here, name_of, register_kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dipc.backends._session import Session
    from dipc.ir.program import Program
    from dipc.memory.price import Case, Price
    from dipc.memory.trace import Trace
    from dipc.memory.traffic import TrafficProgram

Kernels = Literal["auto"] | bool
"""dipc's kernels where they can be had ("auto"), demanded (True) or left out (False)."""
Ability = Literal["run", "export", "price"]
_METHODS: dict[Ability, str] = {"run": "open", "export": "export", "price": "price"}


@dataclass(frozen=True)
class RunOptions(Options):
    """The backend that runs a program, and how."""

    backend: Annotated[
        str, Flag("What runs it: eager (torch), onnx (ONNX Runtime), or what `dipc backends list` has.", "NAME")
    ] = "eager"
    kernels: Annotated[
        Kernels,
        Flag("With --backend onnx: only what is in the file, no kernel of dipc.", name="--no-kernels", bare=False),
    ] = "auto"
    """With `onnx`: dipc's kernels where they can be had ("auto"), demanded (True) or left out (False). With `eager` a
    program that writes text is packed for them where that pays, unless False."""
    device: Annotated[
        str | None, Flag("Of torch: auto (a GPU where there is one), cpu, cuda or cuda:N.", metavar="NAME")
    ] = None
    """With `eager`, what torch runs on (`dipc.ir.placement`): `auto`, `cpu`, `cuda` or `cuda:1`; by default what holds
    the weights."""
    threads: int | None = None
    """Threads of one operator; by default the backend's choice."""
    exported: Path | None = None
    """With `onnx`: the program's own export; by default it is made anew and thrown away."""


@dataclass(frozen=True)
class Export:
    """The outcome of an export: sizes by file, how often each operator of dipc's is called, names in and out."""

    folder: Path
    files: Mapping[str, int]
    operators: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Backend:
    """Base of every backend; subclasses override what they can do.

    Attributes:
        flags: fields of `RunOptions` that mean something to it.
        runtime: what its programs run in, for titles, where that has another name than the backend.
        lowering: the pipeline that a program goes through before it is exported, unless that is not wanted.
    """

    flags: ClassVar[frozenset[str]] = frozenset()
    runtime: ClassVar[str] = ""
    lowering: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The registry name: the file's."""
        return name_of(type(self))

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]

    @classmethod
    def abilities(cls) -> tuple[Ability, ...]:
        """Return what it can do."""
        return tuple(a for a, method in _METHODS.items() if getattr(cls, method) is not getattr(Backend, method))

    def require(self, ability: Ability) -> None:
        """Check that what an ability needs is installed, before work is done for nothing.

        Raises:
            UsageError: the backend lacks the ability.
            MissingDependency: a package is absent; the message names the extra that brings it.
        """
        if ability not in self.abilities():
            verb = {"run": "runs no program", "export": "writes no file", "price": "prices nothing"}[ability]
            raise UsageError(f"the backend {self.name} {verb}; choose {' or '.join(_able(ability))}")

    def prepare(self, program: Program, options: RunOptions, *, new_tokens: int | None = None) -> Program:
        """Return the program as this backend runs it best: on its device, and in its form for writing `new_tokens`."""
        return program

    def open(
        self, program: Program, options: RunOptions | None = None, *, record: bool = False
    ) -> AbstractContextManager[Session]:
        """Give a session that runs a program, for as long as the context lasts.

        Args:
            program: with weights, as `prepare` returns it.
            options: how to run it.
            record: also return every site's masks.

        Raises:
            UsageError: a program without weights, or the backend runs none.
            BadFile: an export that is of another program.
            MissingDependency: a package is absent, or kernels are demanded and cannot be had.
        """
        self.require("run")
        raise NotImplementedError

    def recognises(self, path: Path) -> bool:
        """Return whether a path is something that this backend exported."""
        return False

    def open_export(self, path: Path, options: RunOptions) -> Session:
        """Return a session that runs what `recognises` knows, without the program that it was made from."""
        raise UsageError(f"{path}: the backend {self.name} runs no exported model")

    def export(self, program: Program, folder: Path, *, pipeline: str = "") -> Export:
        """Write a program for another runtime.

        Args:
            program: with weights.
            folder: a new folder, written whole or not at all.
            pipeline: what made the program, for the record.

        Raises:
            UsageError: no weights, or the folder exists, or the backend writes no file.
            UnsupportedModel: something in the program has no form there.
            MissingDependency: a package is absent.
        """
        self.require("export")
        raise NotImplementedError

    def price(
        self,
        traffic: TrafficProgram,
        cases: Sequence[Case],
        trace: Trace | None,
        *,
        warmup: int = 0,
        popularity: Mapping[str, npt.NDArray[np.int64]] | None = None,
    ) -> list[Price]:
        """Price every token of a trace on devices.

        Args:
            traffic: the program's.
            cases: devices with policies and ways to read flash.
            trace: masks of all sites that are not read in full; None if there is no such site.
            warmup: tokens at the start of the trace that fill the cache and are not counted.
            popularity: int64 [U] by site, for policies that rank by it.
        """
        self.require("price")
        raise NotImplementedError


def _find(module: ModuleType) -> type[Backend] | None:
    return defined_here(module, Backend)


BACKENDS: ModuleRegistry[type[Backend]] = register_kind(ModuleRegistry("backend", "dipc.backends", _find))
"""Backends by name: the files of this folder, and what plug-ins add."""


def _able(ability: Ability) -> list[str]:
    return [name for name in BACKENDS.names() if ability in BACKENDS.get(name).abilities()]


def get_backend(name: str, ability: Ability) -> Backend:
    """Return the backend of that name. Raises UnknownName, UsageError if it cannot do that, and MissingDependency."""
    if name not in BACKENDS.names():
        raise UnknownName("backend", name, _able(ability))
    backend = BACKENDS.get(name)()
    backend.require(ability)
    return backend


def exporter_of(path: Path) -> Backend | None:
    """Return the backend that a path was exported by, or None."""
    backends = (BACKENDS.get(name)() for name in BACKENDS.names())
    return next((backend for backend in backends if backend.recognises(path)), None)
