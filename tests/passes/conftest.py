"""The files that tests of passes read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.static_baselines import saved
from kit.tiny_models import tiny_llama, tiny_model


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A calibration of the tiny Llama, tied or not, that holds tokens alone."""
    return saved(tiny_llama(), tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config.json of a Llama whose sizes groups of 64 divide; 16-bit weights."""
    folder = tmp_path_factory.mktemp("bare")
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 192, "dtype": "bfloat16"}
    model_config: Any = tiny_model(**sizes).config
    model_config.architectures = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(model_config.to_json_string())
    return folder / "config.json"
