"""The digest of a model: the same where results are the same, another where they are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dipc.api import capture
from dipc.frontend.digest import model_digest
from kit.checkpoints import write_checkpoint
from kit.tiny_models import tiny_llama

NEUTRAL: dict[str, Any] = {
    "use_cache": False,
    "pad_token_id": 5,
    "transformers_version": "9.9.9",
    "initializer_range": 0.5,
    "attention_dropout": 0.5,
    "architectures": ["SomebodysForCausalLM"],
    "bos_token_id": 7,
}
TELLING: dict[str, Any] = {
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "max_position_embeddings": 63,
    "hidden_act": "gelu",
}


def digest(folder: Path, **config: Any) -> str:
    return capture(write_checkpoint(folder, **config)).info.digest


def test_what_changes_no_result_changes_no_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", **NEUTRAL) == digest(tmp_path / "b") == tiny_llama().info.digest


@pytest.mark.parametrize("key", TELLING)
def test_what_changes_results_changes_the_digest(tmp_path: Path, key: str) -> None:
    assert digest(tmp_path / "a", **{key: TELLING[key]}) != tiny_llama().info.digest


def test_one_weight_of_many_changes_the_digest() -> None:
    """The sums over all bits see what evenly spaced values pass by, and where."""
    program = tiny_llama()
    name = "model.layers.0.mlp.up_proj.weight"
    large = torch.zeros(100, 1000)
    digests = set()
    for change in (None, 1, 49_999, 99_998):
        weight = large.clone()
        if change is not None:
            weight.view(-1)[change] = 1e-30
        digests.add(model_digest(program.replace(weights={**program.weights, name: weight})))
    assert len(digests) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_layout_of_the_same_values_has_the_same_digest(dtype: torch.dtype) -> None:
    program = tiny_llama()
    name = "model.norm.weight"
    values = torch.arange(33, dtype=dtype)
    other = torch.stack([values, values], 1)
    pair = [
        model_digest(program.replace(weights={**program.weights, name: v})) for v in (values[1:].clone(), values[1:])
    ]
    pair.append(model_digest(program.replace(weights={**program.weights, name: other[1:, 0]})))
    assert len(set(pair)) == 1


def test_the_width_of_storage_is_in_it() -> None:
    """A study of prices is resumed by the digest, and a price follows the width."""
    program = tiny_llama()
    widths: list[dict[str, Any]] = [{}, {"weight_bits": 16.0}, {"own_bits": {"lm_head.weight": 16.0}}]
    infos = [dataclasses.replace(program.info, **width) for width in widths]
    assert len({model_digest(program.replace(info=info)) for info in infos}) == 3
