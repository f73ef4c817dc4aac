"""Names: what a pipeline inserts, what a plug-in file or an installed distribution brings, and what neither may do."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dipc.api import compile
from dipc.cache.policy import POLICIES
from dipc.errors import BadFile, UsageError
from dipc.frontend.tracer import quiet
from dipc.hardware.find import DEVICES, device_names, device_path
from dipc.ir.operators import OPERATORS
from dipc.passes.dip import Dip
from dipc.passes.outline_glu import OutlineGlu
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.pipeline.runner import resolve
from dipc.pipeline.text import parse_pipeline
from dipc.registry import REGISTRIES, load_installed_plugins, load_plugin
from kit.tiny_models import outlined, tiny_llama


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test plugs in is gone after it."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "added", dict(registry.added))


# --- What a pipeline inserts ---


@dataclass(frozen=True)
class _Step(Pass):
    """Passes of one file, so each says its name itself."""

    called: ClassVar[str]

    @property
    def name(self) -> str:
        return self.called


def step(called: str, *requires: str) -> Pass:
    """A pass that is registered under a name and requires others."""
    kind = type(called, (_Step,), {"called": called, "requires": requires})
    PASSES.add(called, kind, f"the test's {called}")
    made: Pass = kind()
    return made


def names(passes: list[Pass]) -> list[str]:
    return [p.name for p in passes]


def test_what_a_required_pass_requires_is_inserted_too() -> None:
    top, middle = step("top", "middle", "base"), step("middle", "base", "outline-glu")
    base = step("base")
    assert names(resolve([top])) == ["base", "outline-glu", "middle", "top"]
    assert names(resolve([middle, top, Dip()])) == ["base", "outline-glu", "middle", "top", "dip"]
    assert names(resolve([OutlineGlu(), base, top])) == ["outline-glu", "base", "middle", "top"]
    # What is asked for twice is run twice; what is required, once.
    assert names(resolve([base, base])) == ["base", "base"]


def test_what_the_program_has_is_not_inserted_at_any_depth() -> None:
    step("middle", "outline-glu")
    assert names(resolve([step("top", "middle")], outlined())) == ["middle", "top"]


def test_passes_that_require_each_other() -> None:
    step("hen", "egg")
    with pytest.raises(UsageError, match="egg requires hen requires egg: no order"):
        resolve([step("egg", "hen")])


# --- What capture leaves behind ---


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_are_as_they_were(shown: bool) -> None:
    from transformers import logging

    def show(bars: bool) -> None:
        change: Any = logging.enable_progress_bar if bars else logging.disable_progress_bar
        change()

    def fail() -> None:
        with quiet():
            assert not logging.is_progress_bar_enabled()
            raise ZeroDivisionError

    before = logging.is_progress_bar_enabled()
    show(shown)
    try:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert logging.is_progress_bar_enabled() is shown
    finally:
        show(before)


# --- Plug-in files ---

METHOD = """
    from dataclasses import dataclass
    from dipc.passes.dip import Dip

    @dataclass(frozen=True)
    class {name}(Dip):
        '''Half of everything.'''
"""

POLICY = """
    from dataclasses import dataclass
    from dipc.cache.policy import Policy

    @dataclass(frozen=True)
    class Oldest(Policy):
        def key(self, freq, last_used):
            return last_used * 0
"""

OPERATOR = """
    from dipc.ir.operator import Operator

    def reference(x):
        return x + 1

    OPERATOR = Operator("{name}", "(Tensor x) -> Tensor", reference, reference, lambda node: (), lambda g, t, u: [])
"""


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(textwrap.dedent, texts)), encoding="utf-8")
    return path


def test_an_operator_file_runs_once(tmp_path: Path) -> None:
    path = write(tmp_path / "plus_one.py", OPERATOR.format(name="plus_one"))
    # torch refuses to define an operator twice.
    assert load_plugin(path) == load_plugin(tmp_path / ".." / tmp_path.name / path.name) == "plus-one"
    assert OPERATORS.get("plus-one").name == "plus_one"


def test_an_operator_is_called_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"add_two.py: defines the operator 'plus_two'; give .* one name"):
        load_plugin(write(tmp_path / "add_two.py", OPERATOR.format(name="plus_two")))
    assert not {"add-two", "plus-two"} & set(OPERATORS.names())


def test_an_imported_operator_is_not_the_files_own(tmp_path: Path) -> None:
    path = write(tmp_path / "with_glu.py", "from dipc.ops.glu import OPERATOR\n", METHOD.format(name="WithGlu"))
    assert load_plugin(path) == "with-glu"
    assert "with-glu" in PASSES.names() and "with-glu" not in OPERATORS.names()


def test_two_passes_in_a_file(tmp_path: Path) -> None:
    two = METHOD.format(name="Ours"), METHOD.format(name="Alike")
    with pytest.raises(BadFile, match=r"two.py: defines Alike and Ours, each a Pass, and a file is one"):
        load_plugin(write(tmp_path / "two.py", *two))
    # A base of the file's own and a second name for a class are no second pass.
    load_plugin(write(tmp_path / "one.py", METHOD.format(name="_Base"), METHOD.format(name="One"), "Again = One\n"))
    assert PASSES.get("one").__name__ == "One"


# --- Installed distributions ---

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path: its entry point, and its package's files by name."""
    before = set(sys.modules)
    monkeypatch.setattr(DEVICES, "added", dict(DEVICES.added))

    def made(entry: str, **files: str) -> Path:
        write(tmp_path / "other-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        write(tmp_path / "other-1.0.dist-info" / "entry_points.txt", f"[dipc.plugins]\nours = {entry}\n")
        package = tmp_path / entry.partition(":")[0].replace(".", "/")
        for name, text in {"__init__": "", **files}.items():
            write(package / f"{name}.py", text)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        load_installed_plugins.cache_clear()
        return package

    yield made
    load_installed_plugins.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("other_"):
            del sys.modules[name]


def test_a_pass_in_a_packages_init_has_the_packages_name(install: Install) -> None:
    install("other_half", __init__=METHOD.format(name="OtherHalf"))
    assert "other-half" in PASSES.names()
    result = compile(tiny_llama(), "other-half{density=0.25}")
    assert result.pipeline == "outline-glu,other-half{density=0.25}"
    assert result.program.method.name == "other-half"
    assert parse_pipeline(result.pipeline)[1].name == "other-half"


def test_each_module_of_a_package_is_a_plug_in_file(install: Install) -> None:
    install(
        "other_things",
        least=METHOD.format(name="Least"),
        oldest=POLICY,
        plus_three=OPERATOR.format(name="plus_three"),
        tools="LIMIT = 3",
        _two=METHOD.format(name="A") + METHOD.format(name="B"),
    )
    load_installed_plugins()
    assert (PASSES.get("least").__name__, POLICIES.get("oldest").name) == ("Least", "oldest")
    assert OPERATORS.get("plus-three").name == "plus_three"
    assert not {"tools", "-two", "two"} & {name for registry in REGISTRIES for name in registry.added}


def test_an_installed_file_may_be_named_too(install: Install) -> None:
    package = install("other_twice", plus_four=OPERATOR.format(name="plus_four"))
    load_installed_plugins()
    assert load_plugin(package / "plus_four.py") == "plus-four"


def test_a_package_of_devices_alone(install: Install) -> None:
    package = install("other_device")
    a18 = device_path("a18").read_text(encoding="utf-8")
    write(package / "other_phone.yaml", a18.replace("name: a18", "name: other_phone"))
    load_installed_plugins.cache_clear()
    load_installed_plugins()
    assert "other_phone" in device_names()


@pytest.mark.parametrize(
    ("entry", "files", "message"),
    [
        (
            "other_none",
            {"tools": "LIMIT = 3"},
            r"plug-in ours \(other_none\): brings no backend, cache policy, device, operator or pass",
        ),
        ("other_class:Cls", {"__init__": "class Cls: ..."}, "must name a module or a package, and this is a type"),
        ("other_pair", {"two": METHOD.format(name="A") + METHOD.format(name="B")}, "two.py: defines A and B"),
        ("other_broken", {"broken": "1 / 0"}, r"plug-in ours \(other_broken\): ZeroDivisionError"),
    ],
)
def test_a_distribution_that_cannot_be_used(install: Install, entry: str, files: dict[str, str], message: str) -> None:
    install(entry, **files)
    with pytest.raises(BadFile, match=message):
        load_installed_plugins()
