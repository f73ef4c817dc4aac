"""Find things by name: passes, policies, operators, backends and devices.

A built-in thing is a file of its kind's folder, a plug-in a file elsewhere, and the file's name is the thing's
(`dip_ca.py` is `dip-ca`). Plug-ins come from `--plugin FILE` and from installed distributions with an entry point in
the group `dipc.plugins`, which names a module or a package: each of its modules is one plug-in file (but for those
whose name begins with `_`), and so is each file of a kind that is no Python, as a device's `.yaml`. A plug-in's code
runs only because the user named the file or installed the distribution.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from dipc.errors import BadFile, UnknownName, UsageError
from dipc.input_file import check_input

T = TypeVar("T")
R = TypeVar("R", bound="Registry[Any]")


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
def _modules(package: str) -> list[str]:
    """The modules of a package, looked for once: every node of a graph asks for its operator."""
    return sorted(m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__))


@dataclass
class Registry(Generic[T]):
    """The things of one kind by name: what comes with dipc, and what plug-ins added."""

    kind: str
    added: dict[str, tuple[T, str]] = field(default_factory=dict, kw_only=True)
    """Things that plug-ins brought: the thing and the file that it stands in."""

    def builtin(self) -> dict[str, str]:
        """Return name -> where it is, of what comes with dipc."""
        raise NotImplementedError

    def read(self, name: str, where: str) -> T:
        """Return a thing that comes with dipc."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """Return every name that `get` knows, sorted."""
        load_installed_plugins()
        return sorted({*self.builtin(), *self.added})

    def get(self, name: str) -> T:
        """Return the thing of that name; UnknownName lists the names and guesses what was meant."""
        builtin = self.builtin()
        if name not in self.added and name in builtin:
            return self.read(name, builtin[name])
        if name not in self.added:
            load_installed_plugins()
        if name not in self.added:
            raise UnknownName(self.kind, name, self.names())
        return self.added[name][0]

    def add(self, name: str, thing: T, where: str) -> None:
        """Register a plug-in's thing; a name that is taken is an error."""
        taken = self.builtin().get(name) or self.added.get(name, (None, None))[1]
        if taken == where:
            return
        if taken is not None:
            raise UsageError(f"{where}: the {self.kind} {name!r} is already defined by {taken}; rename the file")
        self.added[name] = (thing, where)


@dataclass
class ModuleRegistry(Registry[T]):
    """Things that Python modules define; a module is imported when its thing is asked for.

    `find` takes a module and gives the one thing of this kind that it defines, or None.
    """

    package: str
    find: Callable[[ModuleType], T | None]

    def builtin(self) -> dict[str, str]:
        """Return name -> module, without importing any."""
        return {registry_name(n): f"{self.package}.{n}" for n in _modules(self.package) if n[0] != "_"}

    def read(self, name: str, where: str) -> T:
        """Import a module. BadFile if it defines no thing of this kind."""
        found = self.find(importlib.import_module(where))
        if found is None:
            raise BadFile(f"{where} defines no {self.kind}")
        return found


@dataclass
class FileRegistry(Registry[Path]):
    """Things that are files of another kind than Python; `get` gives the path."""

    folder: Path
    suffixes: tuple[str, ...]

    def builtin(self) -> dict[str, str]:
        """Return name -> file."""
        return {path.stem: str(path) for path in sorted(self.folder.iterdir()) if path.suffix in self.suffixes}

    def read(self, name: str, where: str) -> Path:
        """Return the file's path."""
        return Path(where)

    def add_file(self, path: Path) -> None:
        """Register a plug-in's file under its name.

        Raises UsageError if it is no such file or there is none, BadFile if another has its name.
        """
        if path.suffix not in self.suffixes:
            raise UsageError(f"{path}: a {self.kind} file is named NAME{self.suffixes[0]}")
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        where = str(path.resolve())
        known = self.builtin().get(path.stem) or self.added.get(path.stem, (None, where))[1]
        if Path(known).resolve() != Path(where):
            raise BadFile(f"{path}: a {self.kind} named {path.stem!r} exists already: {known}; rename one of the files")
        self.added[path.stem] = (path, where)


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


MOST_BYTES = 2**24
"""Of a plug-in's file."""
REGISTRIES: list[Registry[Any]] = []
"""The kinds that are known so far; each stands where its things are used, and registers itself."""

_KINDS = ("dipc.pipeline.pass_", "dipc.cache.policy", "dipc.ir.operators", "dipc.backends", "dipc.hardware.find")
"""Where the kinds stand: imported only when a plug-in comes, which may be of any."""


def register_kind(registry: R) -> R:
    """Make a kind known to plug-ins."""
    REGISTRIES.append(registry)
    return registry


def _kinds() -> list[Registry[Any]]:
    for module in _KINDS:
        importlib.import_module(module)
    return REGISTRIES


def _adopt(module: ModuleType) -> int:
    """Register what a plug-in's module defines; how many things that was."""
    file = getattr(module, "__file__", None)  # A package without an __init__.py has none.
    where = str(Path(file).resolve()) if file else module.__name__
    kinds = [registry for registry in _kinds() if isinstance(registry, ModuleRegistry)]
    found = [(registry, thing) for registry in kinds if (thing := registry.find(module)) is not None]
    for registry, thing in found:
        registry.add(name_of_module(module), thing, where)
    return len(found)


def _file_kinds(suffix: str) -> list[FileRegistry]:
    return [kind for kind in _kinds() if isinstance(kind, FileRegistry) and suffix in kind.suffixes]


def _is_loaded(path: Path) -> bool:
    where = str(path.resolve())
    return any(where == known for registry in REGISTRIES for _, known in registry.added.values())


def plugin_files() -> list[Path]:
    """Return the plug-in files of code that are loaded here, for another process to load too."""
    known = {where for registry in REGISTRIES for _, where in registry.added.values()}
    return sorted(Path(where) for where in known if where.endswith(".py"))


def load_plugin(path: Path) -> str:
    """Load one plug-in file, `.py` or a device's `.yaml`; returns its registry name. Runs the file's code, once.

    Raises UsageError if there is no such file or its name is taken, BadFile if it defines nothing or cannot be run.
    """
    try:
        check_input(path, MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"--plugin {path}: there is no such file") from None
    kinds = _file_kinds(path.suffix)
    if kinds:
        kinds[0].add_file(path)
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
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise BadFile(f"{path}: {type(error).__name__}: {error}") from error
    if not _adopt(module):
        kinds_text = _either([kind.kind for kind in _kinds() if isinstance(kind, ModuleRegistry)])
        raise BadFile(f"{path}: defines no {kinds_text}; docs/extend.md says what each looks like")
    return name_of_module(module)


def _either(names: list[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} or {last}"


@cache
def load_installed_plugins() -> None:
    """Load what installed distributions offer under the entry-point group `dipc.plugins`.

    Raises BadFile for an entry point that cannot be imported, names no module or package, or brings nothing.
    """
    for entry in entry_points(group="dipc.plugins"):
        _load_entry_point(entry)


def _load_entry_point(entry: EntryPoint) -> None:
    label = f"plug-in {entry.name} ({entry.value})"
    try:
        named = entry.load()
        folders = [Path(folder) for folder in getattr(named, "__path__", [])]
        modules = [named] + [
            importlib.import_module(f"{named.__name__}.{item.name}")
            for item in pkgutil.iter_modules(map(str, folders))
            if item.name[0] != "_"
        ]
    except (Exception, SystemExit) as error:
        raise BadFile(f"{label}: {type(error).__name__}: {error}") from error
    if not isinstance(named, ModuleType):
        raise BadFile(f"{label}: an entry point must name a module or a package, and this is a {type(named).__name__}")
    found = sum(_adopt(module) for module in modules)
    files = [
        (kind, file) for folder in folders for file in sorted(folder.iterdir()) for kind in _file_kinds(file.suffix)
    ]
    for kind, file in files:
        kind.add_file(file)
    if not found and not files:
        raise BadFile(f"{label}: brings no {_either([k.kind for k in _kinds()])}; mend or uninstall the distribution")
