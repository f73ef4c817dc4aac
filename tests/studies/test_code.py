"""What a run's figures depend on besides model and text: the code, so that a changed file makes a run anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dipc
from dipc.api import Program, Text
from dipc.files import code_digest
from dipc.ir.operators import OPERATORS
from dipc.pipeline.text import parse_pipeline
from dipc.studies.engine import code
from dipc.studies.engine.code import code_of, core_digest
from dipc.studies.study.executor import StudyExecutor
from dipc.studies.study.measure import StudyRun, measure
from kit.byte_text import WORDS

OPTIONS: dict[str, Any] = {"densities": (0.5,), "dram": ("90%",), "context": 0, "text": Text("words", WORDS), "step": 0}


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return dipc.compile(str(model), "outline-glu").program


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the runs that were measured."""
    labels: list[str] = []
    own = StudyExecutor._measure

    def counted(self: StudyExecutor, run: StudyRun, watch: Any) -> Any:
        labels.append(run.label)
        return own(self, run, watch)

    monkeypatch.setattr(StudyExecutor, "_measure", counted)
    return labels


def test_a_changed_core_makes_every_run_anew(
    program: Program, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dipc.run_study(program, "dip", out=tmp_path, **OPTIONS)
    dipc.run_study(program, "dip", out=tmp_path, **OPTIONS)
    assert made == ["dense", "dip 0.5"]
    monkeypatch.setattr(code, "core_digest", lambda: "another")
    dipc.run_study(program, "dip", out=tmp_path, **OPTIONS)
    assert made == 2 * ["dense", "dip 0.5"]


def test_a_changed_file_counts_for_the_runs_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> dict[str, Any]:
        return {text: code_of(parse_pipeline(text), measure) for text in ("dip", "wina-ca", "wina-ca{policy=lru}")}

    before, own = keys(), code_digest
    changed = {"dip": "dipc.passes.dip", "dip_ca": "dipc.passes.dip_ca", "lru": "dipc.cache.policies.lru"}
    found = {}
    for name, module in changed.items():
        monkeypatch.setattr(code, "code_digest", lambda kind, m=module: "new" if kind.__module__ == m else own(kind))
        after = keys()
        found[name] = [text for text in before if before[text] != after[text]]
    assert found == {
        "dip": ["dip", "wina-ca", "wina-ca{policy=lru}"],  # WINA and its cache-aware form are built upon it
        "dip_ca": ["wina-ca", "wina-ca{policy=lru}"],
        "lru": ["wina-ca{policy=lru}"],
    }


def test_a_plug_ins_operator_counts_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scale.py"
    file.write_text("one")
    before = code_of([], measure)
    monkeypatch.setitem(OPERATORS.added, "scale", (OPERATORS.get("glu"), str(file)))
    once = code_of([], measure)
    file.write_text("another")
    assert len({str(key) for key in (before, once, code_of([], measure))}) == 3


def test_the_core_is_what_figures_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_ROOT", tmp_path)

    def digest_with(name: str) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
        core_digest.cache_clear()
        found = core_digest()
        file.unlink()
        return found

    nothing = digest_with("README.md")
    try:
        for name in (
            "report/study.py",
            "cli/plan.py",
            "api.py",
            "passes/dip.py",
            "cache/policies/lru.py",
            "ops/README.md",
        ):
            assert digest_with(name) == nothing, name
        for name in ("ops/glu.py", "memory/trace.py", "cache/policy.py", "native/gemv.cc", "evaluation/recorder.py"):
            assert digest_with(name) != nothing, name
    finally:
        core_digest.cache_clear()
