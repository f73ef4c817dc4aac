"""Exported models beside the programs that they were made from: numbers, state, names, metadata and errors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from dipc.api import Program, capture, compile, export
from dipc.backends.onnx import export as backend
from dipc.backends.onnx.names import input_names, output_names
from dipc.cache.policy import get_policy
from dipc.errors import UnknownName, UnsupportedModel, UsageError
from dipc.ir import operators
from dipc.ops.select_topk import OPERATOR as SELECT_TOPK
from dipc.passes.pack import Pack
from kit.exported import ONE_LAYER, Running, bytes_of, calls_of, check_same
from kit.tiny_models import one_glu, outlined, tiny_model


@cache
def llama() -> Program:
    """A Llama of one layer, because an export takes seconds, whose widths hold whole groups of 32."""
    return capture(tiny_model("llama", **ONE_LAYER), name="tiny")


@cache
def compiled(pipeline: str, packed: bool = True) -> Program:
    program = compile(llama(), pipeline).program
    return Pack().run(program).program if packed else program


@cache
def written(pipeline: str, packed: bool = True) -> bytes:
    """That program's model, in bytes."""
    return bytes_of(compiled(pipeline, packed))


DIP, DIP_CA = "dip{density=0.5}", "dip-ca{density=0.5 policy=lru scope=decode}"
PIPELINES: dict[str, dict[str, int]] = {
    "outline-glu": {},
    DIP: {"PackedGatherLinear": 1, "PackedGatherSwiGlu": 1, "SelectTopk": 2},
    DIP_CA: {
        "PackedGatherLinear": 1,
        "PackedGatherSwiGlu": 1,
        "SelectCacheAware": 2,
    },
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_an_exported_model_is_its_program(pipeline: str) -> None:
    check_same(compiled(pipeline), Running(written(pipeline)))
    assert calls_of(written(pipeline)) == PIPELINES[pipeline]


def test_unpacked_products_are_exported_too() -> None:
    pipeline = "dip-ca{density=0.5 policy=none}"
    check_same(compiled(pipeline, packed=False), Running(written(pipeline, packed=False)))
    assert calls_of(written(pipeline, packed=False)) == {"GatherLinear": 3, "SelectCacheAware": 2}


@pytest.mark.parametrize(
    ("family", "options"),
    [("phi3", ONE_LAYER), ("gemma3_text", ONE_LAYER | {"head_dim": 8, "sliding_window": 4})],
)
def test_other_families_are_their_programs(family: str, options: dict[str, int]) -> None:
    program = compile(capture(tiny_model(family, **options), name=family), "dip-ca{density=0.5}").program
    check_same(program, Running(bytes_of(Pack().run(program).program)))


def test_without_fusions_the_model_has_only_standard_operators_and_ours() -> None:
    import onnx

    model = bytes_of(compiled(DIP), fusions=False)
    assert {n.domain for n in onnx.load_model_from_string(model).graph.node} == {"", "ai.dipc"}
    check_same(compiled(DIP), Running(model))


def test_half_precision_weights_stay_as_they_are_and_all_else_is_float32() -> None:
    import onnx

    half = capture(tiny_model("llama", **ONE_LAYER).bfloat16(), name="half")
    program = compile(half, "dip{density=0.5}").program
    wide = capture(tiny_model("llama", **ONE_LAYER).bfloat16().float(), name="half")
    reference = compile(wide, "dip{density=0.5}").program
    model = bytes_of(Pack().run(program).program)
    check_same(program, Running(model), reference=reference)
    loaded = onnx.load_model_from_string(model)
    stored = {i.name: i.data_type for i in loaded.graph.initializer}
    assert stored["model.embed_tokens.weight"] == onnx.TensorProto.BFLOAT16
    assert {kind for name, kind in stored.items() if "units" in name} == {onnx.TensorProto.BFLOAT16}
    kinds = {v.type.tensor_type.elem_type for v in (*loaded.graph.input, *loaded.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.parametrize(
    ("pipeline", "nbits", "calls"),
    [
        (
            "int4{group=32 axis=inputs symmetric=false},dip{density=0.5}",
            5,
            {"PackedGatherLinearInt4": 1, "PackedGatherSwiGluInt4": 1, "SelectTopk": 2},
        ),
        ("int4{group=32 axis=outputs weights=mlp}", 0, {"Dequantize": 3}),
        ("int8{group=32 axis=inputs symmetric=false}", 8, {}),
    ],
)
def test_quantised_models_are_their_programs(
    pipeline: str, nbits: int, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    # With activations left as floats, so that what is compared are the weights.
    monkeypatch.setattr("dipc.backends.onnx.matmul_nbits.INT8_ACCURACY", 1)
    model = written(pipeline)
    check_same(compiled(pipeline), Running(model))
    assert calls_of(model) == calls
    loaded = onnx.load_model_from_string(model)
    assert sum(n.op_type == "MatMulNBits" for n in loaded.graph.node) == nbits
    types = {i.data_type for i in loaded.graph.initializer if i.name.endswith(".codes") or "units" in i.name}
    assert (onnx.TensorProto.UINT4 in types) == any("Int4" in name or name == "Dequantize" for name in calls)


# --- Names and metadata ---


def test_inputs_and_outputs_have_the_names_that_others_use() -> None:
    program, running = compiled(DIP_CA), Running(written(DIP_CA))
    assert running.inputs == list(input_names(program).values()) and running.outputs == output_names(program)
    assert {"input_ids", "position_ids", "dense", "past_key_values.0.value"} < set(running.inputs)
    for what in ("cached", "freq", "last_used", "t"):
        assert f"past_selection.0.glu.{what}" in running.inputs
        assert f"present_selection.0.glu.{what}" in running.outputs
    assert {"logits", "present.0.key", "present.0.value"} < set(running.outputs)
    shapes = {i.name: i.shape for i in running.session.get_inputs()}
    assert shapes["input_ids"] == [1, "seq"] and shapes["past_key_values.0.key"] == [1, 2, "past", 8]


def test_the_model_says_where_it_comes_from_and_nothing_of_this_machine() -> None:
    program, model = compiled(DIP_CA), written(DIP_CA)
    told = Running(model).metadata
    assert told["dipc.model"] == "tiny" and told["dipc.digest"] == program.info.digest
    assert told["dipc.method"] == "dip-ca" and told["dipc.scope"] == "decode" and told["dipc.pipeline"] == "as tested"
    assert float(told["dipc.density"]) == program.method.density and json.loads(told["dipc.formats"]) == ["float32"]
    assert {"dipc.version", "dipc.versions", "dipc.carried", "dipc.context", "dipc.options"} < set(told)
    assert str(Path.cwd()).encode() not in model and b"site-packages" not in model and b".py" not in model


def test_an_export_is_the_same_bytes_again() -> None:
    assert bytes_of(compiled(DIP)) == written(DIP)


def test_attributes_reach_the_file_under_their_names() -> None:
    import onnx

    nodes = [n for n in onnx.load_model_from_string(written(DIP_CA)).graph.node if n.op_type == "SelectCacheAware"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in nodes]
    assert [a["site"] for a in attributes] == [b"layers.0.input", b"layers.0.glu"]
    assert [a["k"] for a in attributes] == [16, 32]
    rest = {"capacity": 32, "gamma": pytest.approx(0.2), "policy": b"lru", "frequency_weight": 0, "recency_weight": 1}
    assert {n: attributes[1][n] for n in rest} == rest


# --- Files ---


def test_large_weights_have_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    import onnx_ir
    import onnxruntime

    model = onnx_ir.from_proto(onnx.load_model_from_string(written(DIP)))
    monkeypatch.setattr("dipc.backends.onnx.export.to_ir", lambda program, pipeline: (model, PIPELINES[DIP]))
    made = backend.export(compiled(DIP), tmp_path / "out", external_data_bytes=1)
    assert set(made.files) == {"model.onnx", "model.onnx.data"} and made.operators == PIPELINES[DIP]
    check_same(compiled(DIP), Running(str(tmp_path / "out" / "model.onnx")))
    (tmp_path / "out" / "model.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))


def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dipc.backends.onnx.export.to_ir", lambda program, pipeline: (None, {}))
    monkeypatch.setattr("dipc.backends.onnx.export.write", fails)
    with pytest.raises(UsageError, match="No space left"):
        export(compiled(DIP), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- What cannot be exported ---


def test_an_existing_folder_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        export(outlined(), "onnx", tmp_path)
    with pytest.raises(UnknownName, match="onnx"):
        export(outlined(), "onnyx", tmp_path / "out")
    with pytest.raises(UnknownName, match=r"no export format named 'eager' \(known: onnx\)"):
        export(outlined(), "eager", tmp_path / "out")


def test_a_program_without_weights_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        program = capture(tiny_model("llama"), name="bare")
    with pytest.raises(UsageError, match="no weights to export"):
        export(program, "onnx", tmp_path / "out")


def test_an_operator_without_onnx_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known, program = operators.operator_of, compiled(DIP)
    monkeypatch.setattr("dipc.ir.operators.operator_of", lambda t: _Formless if t is SELECT_TOPK.target else known(t))
    with pytest.raises(UnsupportedModel, match=r"the operator select_topk at .* has no ONNX form"):
        backend.to_ir(program)


class _Formless:
    name, onnx, target = SELECT_TOPK.name, None, SELECT_TOPK.target


def test_a_policy_without_onnx_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_policy("lru")), "key_weights", None)
    with pytest.raises(UnsupportedModel, match=r"the policy 'lru' at layers\.0\.input has no ONNX form; only lfu, "):
        backend.to_ir(compiled(DIP_CA))


def test_a_graph_that_torch_cannot_export_is_an_error_of_one_line() -> None:
    program = one_glu(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, 3))
    graph = program.edit()
    output = next(n for n in graph.nodes if n.op == "output")
    with graph.inserting_before(output):
        found = graph.call_function(torch.ops.aten.nonzero_static.default, (output.args[0][0],), {"size": 3})
    output.args = ((found,),)
    with pytest.raises(UnsupportedModel, match=r"^by hand cannot be exported to ONNX: .*nonzero_static[^\x1b\n]*$"):
        backend.to_ir(program.replace(graph=graph))
