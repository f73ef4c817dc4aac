"""Hybrids: what convolutions, state-space and linear-attention layers carry, and transformers' numbers with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dipc.api import capture, compile, load, save
from dipc.backends.eager import EagerSession
from dipc.errors import UnsupportedModel
from dipc.memory.lowering import lower
from kit.reference import called, deviation_from
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_model

MAMBA2 = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
QUICK: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {**DELTA, "head_dim": 8},
    "granitemoehybrid": {
        **MAMBA2,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 48,
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "falcon_h1": {**MAMBA2, "head_dim": 8, "mamba_d_ssm": 64},
    "bamba": {**MAMBA2, "attn_layer_indices": [1]},
    "qwen3_next": {**DELTA, "head_dim": 8, "mlp_only_layers": [0, 1], "num_experts": 4},
    "olmo_hybrid": {**DELTA, "linear_num_key_heads": 4},
}
TOLERANCE = 2e-6


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(family, marks=pytest.mark.nightly) for family in OTHERS)])
def test_a_hybrid_has_the_numbers_of_transformers(family: str, tmp_path: Path) -> None:
    model, ids = tiny_model(family, **(QUICK | OTHERS)[family]), random_ids(24)
    program = capture(model)
    assert {p.kind for p in program.carried} == {"kv", "recurrent"}
    for pieces in ([ids], [ids[:9], *ids[9:].split(1)], [*ids.split(5)]):
        assert deviation_from(model, program, pieces) <= TOLERANCE

    save(program, tmp_path / "out")
    session = EagerSession(load(tmp_path / "out"))
    session.step(ids[12:])
    assert not session.rewind(4) and session.position == 12
    session.new_sequence()
    assert relative(session.step(ids).logits, called(model, [ids])) <= TOLERANCE
    if family != "falcon_h1":  # it multiplies its gates by a constant
        assert [m.layer for m in compile(program, "dip", check_numerics=True).program.mlps] == [0, 1]


def test_states_are_of_one_size_and_counted_once() -> None:
    program = compile(tiny_model("lfm2", **QUICK["lfm2"]), "outline-glu").program
    state = program.port("past_0_conv")
    assert (state.kind, str(state.type), state.past_axis) == ("recurrent", "float32[1, 32, 3]", None)
    # Keys and values of one layer: 2 x 2 heads of 8 in 16 bits a position; the state 32 x 3 in 32 bits, once.
    assert [lower(program).kv_bytes(context) for context in (1, 10)] == [64 + 384, 640 + 384]


def test_a_recurrence_that_cannot_be_traced_is_refused_by_its_layers() -> None:
    model = tiny_model(
        "jamba", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=100, expert_layer_offset=99,
        mamba_d_state=8, use_mamba_kernels=False,
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match=r"has layers \(0\) with a recurrent state that it computes token by"):
        capture(model)


def test_the_padding_token_is_not_looked_for() -> None:
    model, ids = tiny_model("gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=64), random_ids(9)
    assert deviation_from(model, capture(model), [ids[:5], ids[5:]]) <= TOLERANCE


def test_what_a_model_writes_in_place_is_a_value() -> None:
    model, ids = tiny_model("olmo", clip_qkv=0.05), random_ids(12)
    program = capture(model)
    called_ops = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert not any(op._schema.is_mutable for op in called_ops if isinstance(op, torch._ops.OpOverload))
    assert deviation_from(model, program, [ids[:7], *ids[7:].split(1)]) <= TOLERANCE
    assert len(compile(program, "dip", check_numerics=True).program.mlps) == 2
