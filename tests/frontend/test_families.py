"""Small random models of the families: captured, every MLP found, the dense result unchanged, and DIP runs.

The reference is the transformers model itself, over 24 tokens, which is past the sliding window of 8 where one is set.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dipc.api import Program, capture, compile
from dipc.backends.eager import EagerSession
from dipc.errors import UnsupportedModel
from dipc.passes.dip import Dip
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_model

WINDOW = {"sliding_window": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {},
    "gemma2": {"head_dim": 8, **WINDOW},
    "gemma3_text": {"head_dim": 8, **WINDOW},
    "olmo2": {},
    "smollm3": {},
    "glm4": {"head_dim": 8},
}
ACTIVATION = {"gemma2": "gelu_tanh", "gemma3_text": "gelu_tanh"}
FUSED = ("phi3", "glm4")

# Relative to the largest logit; float32, and the attention of the two runs may round differently by shape.
TOLERANCE = 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    model, ids = tiny_model(family, **FAMILIES[family]), random_ids(24)
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
    program = capture(model)
    assert program.info.family == family and program.info.layers == 2
    assert program.parameter_count == sum(p.numel() for p in model.parameters())
    session = EagerSession(program)
    pieces = [ids[:9], *ids[9:].split(1)]
    assert relative(torch.cat([session.step(p).logits for p in pieces]), expected) <= TOLERANCE

    outlined: list[Program] = []
    result = compile(program, "dip{density=1}", check_numerics=True, watch=lambda _, __, after: outlined.append(after))
    assert [(m.layer, m.d_model, m.d_ff) for m in result.program.mlps] == [(0, 32, 48), (1, 32, 48)]
    assert {m.activation for m in result.program.mlps} == {ACTIVATION.get(family, "silu")}
    assert result.log[-1].matches == ("model.layers.0.mlp", "model.layers.1.mlp")
    assert not any(entry.mismatches for entry in result.log)
    assert all(entry.deviation is not None and entry.deviation <= TOLERANCE for entry in result.log)
    assert ("model.layers.0.mlp.gate_up_proj.weight" in program.weights) == (family in FUSED)
    half = "gate_up_proj.up_proj" if family in FUSED else "up_proj"
    assert f"model.layers.0.mlp.{half}.weight" in result.program.weights

    sparse = EagerSession(Dip(density=0.5).run(outlined[0]).program, record=True)
    steps = [sparse.step(p) for p in pieces]
    logits = torch.cat([s.logits for s in steps])
    assert bool(logits.isfinite().all()) and relative(logits, expected) > 1e-3
    assert {int(n) for s in steps for n in s.masks["layers.1.input"].sum(-1)} == {16}
    assert {int(n) for s in steps for n in s.masks["layers.1.glu"].sum(-1)} == {24}


def one_line(error: UnsupportedModel) -> str:
    text = str(error)
    assert error.exit_code == 3 and text and "\n" not in text
    return text


def test_gpt2_has_no_gated_mlp() -> None:
    with pytest.raises(UnsupportedModel) as caught:
        compile(tiny_model("gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=64, pad_token_id=None), "dip")
    assert "not a gated MLP" in one_line(caught.value) and "gpt2" in str(caught.value)


@pytest.mark.parametrize(("family", "options"), [("bert", {}), ("mamba", {"state_size": 4})])
def test_a_model_without_a_kv_cache_is_refused(family: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        compile(tiny_model(family, **options), "dip")
    assert "keeps no KV cache: it is no decoder-only language model" in one_line(caught.value)


def test_a_mixture_of_experts_is_refused_or_its_mlps_are_listed() -> None:
    model = tiny_model(
        "qwen3_moe", head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1
    )
    try:
        result = compile(model, "outline-glu", allow_noop=True)
    except UnsupportedModel as error:
        one_line(error)
    else:
        assert len(result.log[0].mismatches) == 2 and not result.program.mlps
