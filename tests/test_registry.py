"""Names: what a pipeline inserts, what a plug-in file or an installed distribution brings, and what neither may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from helpers import outlined

from dipc.errors import UsageError
from dipc.passes.dip import Dip
from dipc.passes.outline_glu import OutlineGlu
from dipc.pipeline import PASSES, Pass, resolve
from dipc.registry import REGISTRIES
from dipc.tracer import quiet


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
