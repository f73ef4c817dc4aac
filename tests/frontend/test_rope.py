"""Rotary embeddings that follow the length: transformers' numbers on both sides of the pretrained length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dipc.api import capture
from kit.reference import deviation_from
from kit.tiny_models import SIZES, random_ids, tiny_model

FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.5, 3.0, 4.0]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3 longrope": (
        "phi3",
        {"rope_scaling": {"type": "longrope", **FACTORS}, "original_max_position_embeddings": 16},
    ),
    "llama longrope": (
        "llama",
        {"rope_scaling": {"rope_type": "longrope", **FACTORS, "factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    "dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 16}),
    "linear, spelled as it was": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
}
TOLERANCE = 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_follow_the_longest_position(kind: str) -> None:
    family, options = KINDS[kind]
    model, ids = tiny_model(family, **json.loads(json.dumps(options))), random_ids(24)
    program = capture(model)
    assert program.info.has_weights and program.info.context == 64
    # Within the pretrained 16 positions, beyond them in one call, and across them token by token.
    for pieces in ([ids[:16]], [ids], [ids[:9], *ids[9:].split(1)]):
        fresh = tiny_model(family, **json.loads(json.dumps(options)))
        assert deviation_from(fresh, program, pieces) <= TOLERANCE


def test_the_module_that_is_given_stays_as_it_was() -> None:
    model = tiny_model("phi3", **json.loads(json.dumps(KINDS["phi3 longrope"][1])))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    capture(model)
    after = dict(model.named_buffers())
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "spelling", [{"type": "longrope"}, {"rope_type": "longrope"}, {"type": "su"}, {"type": "yarn"}]
)
def test_a_config_alone_in_every_spelling(spelling: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    scaling = {**spelling, **FACTORS}
    config = {**SIZES, "model_type": "phi3", "rope_scaling": scaling, "original_max_position_embeddings": 16}
    path.write_text(json.dumps(config))
    bare = capture(path)
    full = capture(tiny_model("phi3", **json.loads(json.dumps(KINDS["phi3 longrope"][1]))))
    assert not bare.info.has_weights and bare.text().split("\n", 1)[1] == full.text().split("\n", 1)[1]
