"""Finding passes, policies, operators and devices by name: a built-in one is a file, a plug-in is a file elsewhere.

File name = registry name (`dip_ca.py` is `dip-ca`). Plug-ins come from `--plugin FILE` (a `.py` or a device's `.yaml`)
and from installed distributions with an entry point in the group `dipc.plugins`, which names a module or a package:
every module in it is one plug-in file, every `.yaml` a device. A plug-in's code runs only because the user named the
file or installed the distribution.
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
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from dipc.errors import BadFile, UnknownName, UsageError

T = TypeVar("T")


def registry_name(module: str) -> str:
    """`dipc.passes.dip_ca` -> `dip-ca`."""
    return module.rsplit(".", 1)[-1].replace("_", "-")


def name_of(kind: type) -> str:
    """The registry name of a class: of its file, not its module, which a plug-in file has under a made-up name."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return registry_name(Path(file).stem if file else kind.__module__)


@dataclass
class Registry(Generic[T]):
    """The things of one kind: the files of a package, imported when asked for, and what plug-ins added.

    `find` takes a module and gives the one thing of this kind that it defines, or None.
    """

    kind: str
    package: str
    find: Callable[[ModuleType], T | None]
    helpers: frozenset[str] = frozenset()
    added: dict[str, tuple[T, str]] = field(default_factory=dict)

    def builtin(self) -> dict[str, str]:
        """Registry name -> module, without importing any."""
        paths = importlib.import_module(self.package).__path__
        names = [m.name for m in pkgutil.iter_modules(paths) if m.name not in self.helpers and m.name[0] != "_"]
        return {registry_name(n): f"{self.package}.{n}" for n in sorted(names)}

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
    """The one concrete subclass of `base` that a module defines itself."""
    own = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__ and c.__name__[0] != "_"
    ]
    return own[0] if len(own) == 1 else None


REGISTRIES: list[Registry[object]] = []


def register_kind(registry: Registry[T]) -> Registry[T]:
    """Make a kind known to plug-ins."""
    REGISTRIES.append(registry)  # type: ignore[arg-type]
    return registry


def _kinds() -> Iterator[Registry[object]]:
    for module in ("dipc.pipeline", "dipc.ops", "dipc.cache.policy"):
        importlib.import_module(module)
    yield from REGISTRIES


def _adopt(module: ModuleType, name: str, where: str) -> int:
    found = 0
    for registry in _kinds():
        thing = registry.find(module)
        if thing is not None:
            registry.add(name, thing, where)
            found += 1
    return found


def load_plugin(path: Path) -> str:
    """Load one plug-in file, `.py` or a device's `.yaml`; returns its registry name. Runs the file's code."""
    from dipc import hardware

    if not path.is_file():
        raise UsageError(f"--plugin {path}: there is no such file")
    if path.suffix in (".yaml", ".yml"):
        hardware.register_device_file(path)
        return path.stem
    if path.suffix != ".py":
        raise UsageError(f"--plugin {path}: a plug-in is a .py file or a device's .yaml")
    where = str(path.resolve())
    spec = importlib.util.spec_from_file_location(f"dipc_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadFile(f"{path}: {type(error).__name__}: {error}") from error
    if not _adopt(module, registry_name(path.stem), where):
        raise BadFile(f"{path}: defines no single pass, cache policy or operator; see dipc/passes/README.md")
    return registry_name(path.stem)


@cache
def load_installed_plugins() -> None:
    """Load what installed distributions offer under the entry-point group `dipc.plugins`."""
    from dipc import hardware

    for entry in entry_points(group="dipc.plugins"):
        try:
            module = entry.load()
            modules = [module]
            for item in pkgutil.iter_modules(getattr(module, "__path__", [])):
                modules.append(importlib.import_module(f"{module.__name__}.{item.name}"))
        except Exception as error:
            raise BadFile(f"plug-in {entry.name} ({entry.value}): {type(error).__name__}: {error}") from error
        for item in modules:
            _adopt(item, registry_name(item.__name__), item.__file__ or item.__name__)
        for folder in getattr(module, "__path__", []):
            for device in sorted(Path(folder).glob("*.yaml")):
                hardware.register_device_file(device)
