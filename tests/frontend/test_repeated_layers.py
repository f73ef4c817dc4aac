"""Layers that are traced once: the graph is that of a full trace, and where layers differ the trace is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.node import map_arg

from dipc.api import Program, capture
from dipc.backends.eager import EagerSession
from dipc.frontend import tracer
from dipc.frontend.repeated_layers import Layers, find_layers
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_model

WINDOW = {"head_dim": 8, "sliding_window": 8}
QUICK: dict[str, dict[str, Any]] = {"llama": {"num_hidden_layers": 5}, "gemma2": {"num_hidden_layers": 7, **WINDOW}}
LONG: dict[str, dict[str, Any]] = {
    "mistral": {"num_hidden_layers": 5, "sliding_window": 8},
    "qwen3": {"num_hidden_layers": 5, "head_dim": 8},
    "phi3": {"num_hidden_layers": 5},
    "smollm3": {"num_hidden_layers": 10},
    "gemma3_text": {"num_hidden_layers": 14, **WINDOW},
    "glm4": {"num_hidden_layers": 5, "head_dim": 8},
}
TRACED = {"gemma2": 4, "smollm3": 8, "gemma3_text": 12}


def in_full(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program of a trace of every layer."""
    with monkeypatch.context() as patch:
        patch.setattr(tracer, "find_layers", lambda *_: None)
        return capture(model)


def written(program: Program) -> list[tuple[str, ...]]:
    """The nodes with their arguments by number: names are numbered as they are made."""
    number = {node: str(i) for i, node in enumerate(program.graph.nodes)}

    def arguments(node: Any) -> str:
        return repr(map_arg((node.args, node.kwargs), lambda n: number[n]))

    meta: Callable[[Any], str] = lambda n: f"{n.meta.get('module')} {n.meta.get('type')}"  # noqa: E731
    return [(n.op, str(n.target), arguments(n), meta(n)) for n in program.graph.nodes]


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(family, marks=pytest.mark.nightly) for family in LONG)])
def test_the_graph_is_that_of_a_full_trace(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family, **(QUICK | LONG)[family])
    layers = find_layers(model, model.config)
    assert layers is not None and layers.prefix == TRACED.get(family, 2)
    whole, repeated = in_full(model, monkeypatch), capture(model)
    assert written(repeated) == written(whole)
    assert (repeated.inputs, repeated.outputs, repeated.info) == (whole.inputs, whole.outputs, whole.info)
    assert repeated.weights.keys() == whole.weights.keys()
    assert all(repeated.weights[name].data_ptr() == whole.weights[name].data_ptr() for name in whole.weights)


def test_a_repeated_model_computes_what_it_did() -> None:
    model, ids = tiny_model(num_hidden_layers=6), random_ids(12)
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    session = EagerSession(capture(model))
    assert relative(torch.cat([session.step(p).logits for p in (ids[:7], *ids[7:].split(1))]), expected) <= 2e-5


def test_only_layers_that_differ_are_traced() -> None:
    model = tiny_model("smollm3", num_hidden_layers=12)
    found = find_layers(model, model.config)
    assert found is not None
    assert found.prefix == 8 and found.source == (*range(8), 6, 6, 6, 7)
    assert found.twins == ((0, 6), (3, 7)) and set(found.copies) == {8, 9, 10, 11}
    assert found.renumbered("constant.model.layers.1.x.2.weight", 9) == "constant.model.layers.9.x.2.weight"
    assert [found.number(n) for n in ("model.layers.11.mlp", "model.layers2.1", "lm_head.weight")] == [11, None, None]


def test_few_layers_are_traced_in_full() -> None:
    model = tiny_model(num_hidden_layers=3)
    assert find_layers(model, model.config) is None


def test_code_of_others_is_traced_in_full() -> None:
    class Scaled(nn.Identity):
        """Might divide by the number of layers, as the code of some checkpoints does."""

    model: Any = tiny_model(num_hidden_layers=6)
    assert find_layers(model, model.config) is not None
    model.model.layers[5].mlp.scale = Scaled()
    model.model.scale = Scaled()
    assert find_layers(model, model.config) is None
    del model.model.layers[5].mlp.scale
    assert find_layers(model, model.config) is None


def test_layers_that_share_a_weight_are_traced_in_full() -> None:
    model: Any = tiny_model(num_hidden_layers=6)
    model.model.layers[4].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    assert find_layers(model, model.config) is None


def test_a_layer_of_another_shape_is_a_kind_of_its_own() -> None:
    model: Any = tiny_model(num_hidden_layers=6)
    model.model.layers[2].mlp.up_proj.bias = nn.Parameter(torch.zeros(48))
    found = find_layers(model, model.config)
    assert found is not None and found.prefix == 3 and found.source == (0, 1, 2, 1, 1, 1)


def test_a_layer_that_computes_with_its_number_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    model: Any = tiny_model(num_hidden_layers=5)
    for index, layer in enumerate(model.model.layers):
        layer.mlp.layer_idx = index
    forward: Any = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: forward(self, x) / (self.layer_idx + 1))
    traced: list[Layers | None] = []
    once = tracer._traced

    def noted(source: tracer.Source, window: int | None, layers: Layers | None = None) -> Program:
        traced.append(layers)
        return once(source, window, layers)

    monkeypatch.setattr(tracer, "_traced", noted)
    program, ids = capture(model), random_ids(6)
    assert [layers is None for layers in traced] == [False, True]
    with torch.no_grad():
        assert relative(EagerSession(program).step(ids).logits, model(ids[None]).logits[0]) <= 2e-5
