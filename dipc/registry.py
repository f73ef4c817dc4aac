"""Finding passes, policies, operators and devices by name: a built-in one is a file, a plug-in is a file elsewhere.

File name = registry name (`dip_ca.py` is `dip-ca`). Plug-ins come from `--plugin FILE` (a `.py` or a device's `.yaml`)
and from installed distributions with an entry point in the group `dipc.plugins`, which names a module or a package:
each of its modules is one plug-in file (but for those whose name begins with `_`), each `.yaml` a device. A plug-in's
code runs only because the user named the file or installed the distribution.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from dipc.errors import BadFile, UnknownName, UsageError

T = TypeVar("T")


def registry_name(module: str) -> str:
    """`dipc.passes.dip_ca` -> `dip-ca`."""
    return module.rsplit(".", 1)[-1].replace("_", "-")


def name_of_module(module: ModuleType) -> str:
    """The registry name that a module asks for: its file's, or its folder's where it is a package."""
    file = getattr(module, "__file__", None)
    if not file:
        return registry_name(module.__name__)
    path = Path(file)
    return registry_name(path.parent.name if path.stem == "__init__" else path.stem)


def name_of(kind: type) -> str:
    """The registry name of a class: of its file, not its module, which a plug-in file has under a made-up name."""
    module = sys.modules.get(kind.__module__)
    return registry_name(kind.__module__) if module is None else name_of_module(module)


@cache
def _files(package: str) -> list[str]:
    """The modules of a package, looked for once: every node of a graph asks for its operator."""
    return sorted(m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__))


@dataclass
class Registry(Generic[T]):
    """The things of one kind: the files of a package, imported when asked for, and what plug-ins added.

    `find` takes a module and gives the one thing of this kind that it defines, or None.
    """

    kind: str
    package: str
    find: Callable[[ModuleType], T | None]
    added: dict[str, tuple[T, str]] = field(default_factory=dict)

    def builtin(self) -> dict[str, str]:
        """Registry name -> module, without importing any."""
        names = (n for n in _files(self.package) if n[0] != "_")
        return {registry_name(n): f"{self.package}.{n}" for n in names}

    def names(self) -> list[str]:
        """Every name that `get` knows."""
        load_installed_plugins()
        return sorted({*self.builtin(), *self.added})

    def get(self, name: str) -> T:
        """The thing of that name; UnknownName lists the names and guesses what was meant."""
        if name in self.added:
            return self.added[name][0]
        modules = self.builtin()
        if name in modules:
            found = self.find(importlib.import_module(modules[name]))
            if found is None:
                raise BadFile(f"{modules[name]} defines no {self.kind}")
            return found
        load_installed_plugins()
        if name in self.added:
            return self.added[name][0]
        raise UnknownName(self.kind, name, self.names())

    def add(self, name: str, thing: T, where: str) -> None:
        """Register a plug-in's thing; a name that is taken is an error."""
        taken = self.builtin().get(name) or self.added.get(name, (None, None))[1]
        if taken == where:
            return
        if taken is not None:
            raise UsageError(f"{where}: the {self.kind} {name!r} is already defined by {taken}; rename the file")
        self.added[name] = (thing, where)


def defined_here(module: ModuleType, base: type[T]) -> type[T] | None:
    """The one subclass of `base` that a module defines itself; names that begin with `_` are the module's own.

    Raises BadFile, naming them, where there are more.
    """
    own = {
        c.__name__: c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__ and c.__name__[0] != "_"
    }
    if len(own) > 1:
        raise BadFile(
            f"{module.__file__}: defines {' and '.join(sorted(own))}, each a {base.__name__}, and a file is one; "
            "move all but one to files of their own, or begin the name of a mere base with _"
        )
    return next(iter(own.values()), None)


REGISTRIES: list[Registry[object]] = []


def register_kind(registry: Registry[T]) -> Registry[T]:
    """Make a kind known to plug-ins."""
    REGISTRIES.append(registry)  # type: ignore[arg-type]
    return registry


def _kinds() -> Iterator[Registry[object]]:
    for module in ("dipc.pipeline.runner", "dipc.ir.operators", "dipc.cache.policy"):
        importlib.import_module(module)
    yield from REGISTRIES


def _adopt(module: ModuleType) -> int:
    """Register what a plug-in's module defines; how many things that was."""
    file = getattr(module, "__file__", None)  # A package without an __init__.py has none.
    where = str(Path(file).resolve()) if file else module.__name__
    found = [(registry, thing) for registry in _kinds() if (thing := registry.find(module)) is not None]
    for registry, thing in found:
        registry.add(name_of_module(module), thing, where)
    return len(found)


def _is_loaded(path: Path) -> bool:
    where = str(path.resolve())
    return any(where == known for registry in REGISTRIES for _, known in registry.added.values())


def plugin_files() -> list[Path]:
    """The plug-in files of code that are loaded here, for another process to load too."""
    known = {where for registry in REGISTRIES for _, where in registry.added.values()}
    return sorted(Path(where) for where in known if where.endswith(".py"))


def load_plugin(path: Path) -> str:
    """Load one plug-in file, `.py` or a device's `.yaml`; returns its registry name. Runs the file's code, once.

    Raises UsageError if there is no such file or its name is taken, BadFile if it defines nothing or cannot be run.
    """
    from dipc.hardware import device as hardware

    if not path.is_file():
        raise UsageError(f"--plugin {path}: there is no such file")
    if path.suffix in (".yaml", ".yml"):
        hardware.register_device_file(path)
        return path.stem
    if path.suffix != ".py":
        raise UsageError(f"--plugin {path}: a plug-in is a .py file or a device's .yaml")
    spec = importlib.util.spec_from_file_location(f"dipc_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if _is_loaded(path):
        return name_of_module(module)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadFile(f"{path}: {type(error).__name__}: {error}") from error
    if not _adopt(module):
        raise BadFile(f"{path}: defines no single pass, cache policy or operator; see dipc/passes/README.md")
    return name_of_module(module)


@cache
def load_installed_plugins() -> None:
    """Load what installed distributions offer under the entry-point group `dipc.plugins`.

    Raises BadFile for an entry point that cannot be imported, names no module or package, or brings nothing.
    """
    for entry in entry_points(group="dipc.plugins"):
        _load_entry_point(entry)


def _load_entry_point(entry: EntryPoint) -> None:
    from dipc.hardware import device as hardware

    label = f"plug-in {entry.name} ({entry.value})"
    try:
        named = entry.load()
        folders = [Path(folder) for folder in getattr(named, "__path__", [])]
        modules = [named] + [
            importlib.import_module(f"{named.__name__}.{item.name}")
            for item in pkgutil.iter_modules(map(str, folders))
            if item.name[0] != "_"
        ]
    except Exception as error:
        raise BadFile(f"{label}: {type(error).__name__}: {error}") from error
    if not isinstance(named, ModuleType):
        raise BadFile(f"{label}: an entry point must name a module or a package, and this is a {type(named).__name__}")
    found = sum(_adopt(module) for module in modules)
    devices = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    for file in devices:
        hardware.register_device_file(file)
    if not found and not devices:
        raise BadFile(f"{label}: brings no pass, cache policy, operator or device; mend or uninstall the distribution")
