"""Layers that are lowered once: the model is that of a full lowering, and where layers differ the lowering is full."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from torch import Tensor

from dipc.api import Program, capture, compile
from dipc.backends.eager import EagerSession
from dipc.backends.onnx import export as backend
from dipc.backends.onnx.chain import NotRepeated, Repetition
from dipc.backends.onnx.folding import fold_small_weights
from dipc.backends.onnx.packed_weights import PackedWeight, PackedWeights
from dipc.backends.onnx.session import OnnxSession, RuntimeOptions
from dipc.backends.onnx.short_program import LayerNames, shorten
from dipc.passes.pack import Pack
from kit.tiny_models import outlined, random_ids, tiny_model

DIP_CA = "dip-ca{density=0.5 policy=lru scope=decode}"
INT4 = "int4{group=32 axis=inputs symmetric=false}"
WINDOW = {"head_dim": 8, "sliding_window": 4}
LONG: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "dense": ("llama", "outline-glu", {"num_hidden_layers": 6}, 4),
    "dip": ("llama", "dip{density=0.5}", {"num_hidden_layers": 6}, 4),
    "int4": ("llama", f"{INT4},dip{{density=0.5}}", {"num_hidden_layers": 6}, 4),
    "fused gate and up": ("phi3", DIP_CA, {"num_hidden_layers": 6}, 4),
    "biases": ("qwen2", "dip{density=0.5}", {"num_hidden_layers": 6}, 4),
}


def model_of(program: Program, caplog: pytest.LogCaptureFixture, repeat: bool = True) -> tuple[onnx_ir.Model, str]:
    """The model in memory, and what the log says of the layers."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "dipc.backends.onnx"):
        model, _ = backend.to_ir(program, repeat=repeat)
    return model, " ".join(r.getMessage() for r in caplog.records if r.name == "dipc.backends.onnx")


def run(model: onnx_ir.Model, folder: Path) -> tuple[list[Tensor], dict[str, Tensor], OnnxSession]:
    """Logits of a prompt and two tokens, and what is carried after them."""
    folder.mkdir()
    onnx_ir.save(model, folder / "model.onnx")
    session = OnnxSession(folder, options=RuntimeOptions(kernels=False))
    logits = [session.step(part).logits for part in random_ids(9).split([7, 1, 1])]
    return logits, {c.input: session.state(c.input) for c in session.metadata.carried}, session


def check_same(program: Program, layers: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repeated, said = model_of(program, caplog)
    whole, _ = model_of(program, caplog, repeat=False)
    assert said.endswith(f"{layers} layers stood for all")
    counts = [Counter((n.domain, n.op_type) for n in model.graph) for model in (repeated, whole)]
    assert counts[0] == counts[1]
    for ports in ("inputs", "outputs"):
        told = [[(v.name, str(v.dtype), str(v.shape)) for v in getattr(m.graph, ports)] for m in (repeated, whole)]
        assert told[0] == told[1]
    assert repeated.metadata_props == whole.metadata_props and repeated.functions.keys() == whole.functions.keys()
    (logits, state, first), (wanted, carried, second) = (
        run(m, tmp_path / n) for m, n in ((repeated, "short"), (whole, "whole"))
    )
    assert first.metadata == second.metadata and len({float(x.sum()) for x in logits}) == 3
    assert all(map(torch.equal, logits, wanted)) and state.keys() == carried.keys()
    assert all(torch.equal(value, carried[name]) for name, value in state.items())


def compiled(family: str, pipeline: str, **options: Any) -> Program:
    program = capture(tiny_model(family, **{"intermediate_size": 64, **options}), name=family)
    return Pack().run(compile(program, pipeline).program).program


def test_the_model_is_that_of_a_full_lowering(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_same(compiled("llama", DIP_CA, num_hidden_layers=5), "4 of 5", tmp_path, caplog)


@pytest.mark.nightly
@pytest.mark.parametrize("case", LONG)
def test_other_models_are_those_of_a_full_lowering(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family, pipeline, options, kept = LONG[case]
    program = compiled(family, pipeline, **options)
    check_same(program, f"{kept} of {options['num_hidden_layers']}", tmp_path, caplog)


# --- Short programs ---


def test_a_short_program_has_the_first_layers_and_the_last() -> None:
    program = outlined(num_hidden_layers=8)
    short = shorten(program)
    assert short.repetition == Repetition(1, 1, 6) and short.layers == (0, 1, 2, 7)
    assert short.names == LayerNames("model.layers.", 8)
    assert [p.name for p in short.program.carried] == [
        f"past_{i}_{what}" for i in short.layers for what in ("key", "value")
    ]
    assert short.program.outputs == ("logits", *(p.name for p in short.program.carried))
    for layer, same in ((0, True), (1, False), (2, False), (7, True)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert (short.program.weights[name] is program.weights[name]) == same
        assert short.program.weights[name].shape == program.weights[name].shape


def test_a_short_program_computes_what_its_layers_would() -> None:
    model: Any = tiny_model(num_hidden_layers=8)
    short = shorten(capture(model))
    weights = {name: short.whole.weights[name] for name in short.program.weights}
    del model.model.layers[3:7]
    model.model.layers[3].self_attn.layer_idx = 3
    ids = random_ids(6)
    with torch.no_grad():
        expected = model(ids[None], use_cache=False).logits[0]
    got = EagerSession(short.program.replace(weights=weights)).step(ids).logits
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("what", ["number of units", "shape"])
def test_a_layer_that_differs_is_kept(what: str) -> None:
    program = compile(outlined(num_hidden_layers=12), "dip{density=0.5}").program
    graph, weights = program.edit(), dict(program.weights)
    if what == "shape":
        name = "model.layers.5.post_attention_layernorm.weight"
        weights[name] = weights[name][:1]
    else:
        node = next(n for n in graph.nodes if "'layers.5.glu'" in repr(n.args))
        node.args = (node.args[0], node.args[1] - 1, *node.args[2:])
    short = shorten(program.replace(graph=graph, weights=weights))
    assert short.repetition == Repetition(6, 1, 5) and short.layers == (*range(8), 11)


def test_layers_with_windows_come_again_in_twos() -> None:
    program = capture(tiny_model("gemma2", num_hidden_layers=10, **WINDOW), name="gemma")
    assert shorten(fold_small_weights(program)).repetition == Repetition(1, 2, 4)


def test_few_layers_and_layers_that_all_differ_are_refused() -> None:
    with pytest.raises(NotRepeated, match="no two groups"):
        shorten(outlined(num_hidden_layers=4))
    program = compile(outlined(num_hidden_layers=8), "dip{density=0.5}").program
    graph = program.edit()
    for count, node in enumerate(n for n in graph.nodes if ".glu'" in repr(n.args)):
        node.args = (node.args[0], node.args[1] - count, *node.args[2:])
    with pytest.raises(NotRepeated, match="no two groups"):
        shorten(program.replace(graph=graph))


def test_where_the_models_layers_differ_the_lowering_is_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lowered: list[int] = []

    def whole(program: Program, fusions: bool) -> tuple[Any, list[Any]]:
        lowered.append(len(program.carried))
        return None, []

    def differ(*_: object) -> None:
        raise NotRepeated("layers 1 and 2 differ")

    monkeypatch.setattr(backend, "_whole", whole)
    monkeypatch.setattr(backend, "repeat_layers", differ)
    monkeypatch.setattr(backend, "finish", lambda *_: {})
    monkeypatch.setattr(backend, "narrow_initializers", lambda *_: None)
    _, said = model_of(outlined(num_hidden_layers=8), caplog)
    assert lowered == [8, 16] and said == "tiny is lowered to ONNX whole: layers 1 and 2 differ"


# --- Weights that the exporter made ---


def test_matrices_side_by_side_are_told_from_what_they_hold() -> None:
    drawn = torch.Generator().manual_seed(1)
    weights = {n: torch.rand(r, 6, generator=drawn) for n, r in (("q", 4), ("k", 2), ("v", 2))}
    q, k, v = (w.numpy() for w in weights.values())
    known = PackedWeights(weights)
    found = known.find(np.concatenate([q.T, k.T, v.T], axis=1))
    assert found == PackedWeight((("q", True), ("k", True), ("v", True)))
    other = {n: w + 1 for n, w in weights.items()}
    like = onnx_ir.tensor(np.zeros((6, 8), np.float32))
    assert np.array_equal(found.tensor(other, like).numpy(), np.concatenate([q.T, k.T, v.T], axis=1) + 1)
    assert known.find(q) == PackedWeight((("q", False),))
    assert known.find(np.concatenate([q.T, k.T * 2], axis=1)) is None and known.find(q.T[:, 1:]) is None


def test_what_is_computed_of_small_weights_is_stored() -> None:
    program = capture(tiny_model("gemma2", head_dim=8, sliding_window=4), name="gemma")
    folded = fold_small_weights(program)
    weight = program.weights["model.layers.1.input_layernorm.weight"]
    new = [w for name, w in folded.weights.items() if name.startswith("model.layers.1.input_layernorm.weight_folded")]
    assert any(torch.equal(w, weight + 1) for w in new)
    reads = [{x.op for x in n.all_input_nodes} for n in folded.graph.nodes if n.op == "call_function"]
    assert {"get_attr"} not in reads and {"get_attr"} in [
        {x.op for x in n.all_input_nodes} for n in program.graph.nodes if n.op == "call_function"
    ]
