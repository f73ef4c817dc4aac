"""Gated MLPs by their activation: which are outlined, and what is said of the others."""

from __future__ import annotations

from functools import cache

import pytest
from torch import nn

from dipc.api import Program, capture, compile
from dipc.errors import UnsupportedModel
from kit.tiny_models import tiny_model


@cache
def llama(activation: str) -> Program:
    model: nn.Module = tiny_model(hidden_act=activation, num_hidden_layers=1)
    return capture(model)


@pytest.mark.parametrize(
    ("activation", "called"), [("gelu_new", "gelu_tanh"), ("gelu_fast", "gelu_tanh"), ("gelu_python", "gelu")]
)
def test_an_activation_that_is_spelled_out_is_the_operator(activation: str, called: str) -> None:
    result = compile(llama(activation), "dip{density=1}", check_numerics=True)
    assert [m.activation for m in result.program.mlps] == [called]
    assert all(entry.deviation is not None and entry.deviation <= 1e-6 for entry in result.log)


@pytest.mark.parametrize(
    ("activation", "called"),
    [("relu2", "relu2 (the square of relu)"), ("quick_gelu", "quick_gelu"), ("mish", "mish"), ("sigmoid", "sigmoid")],
)
def test_another_activation_is_named_beside_those_that_there_are(activation: str, called: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        compile(llama(activation), "dip")
    assert f"its activation is {called}" in str(caught.value)
    assert str(caught.value).endswith("and dipc has silu, gelu, gelu_tanh, relu") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bitnet", "other steps stand between the product of gate and up and the last linear"),
        ("arcee", "no product of"),
    ],
)
def test_what_is_nearly_a_gated_mlp_and_what_is_none(family: str, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        compile(tiny_model(family, num_hidden_layers=1), "dip")
