"""Matrices in 16 bits in a model file: cast where they enter, widened once, and computed with as before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser

from dipc.backends.onnx.file import write
from dipc.backends.onnx.stored_initializers import narrow_initializers
from dipc.ir.program import ModelInfo

INFO = ModelInfo("m", "llama", 1, 8, 8, 16, 16.0, "0" * 16, True, own_bits={"wide": 32.0})
SHAPES = {"table": (8, 16), "square": (16, 16), "wide": (16, 16), "fine": (16, 16), "vector": (16,)}
WEIGHTS = ", ".join(f"float{list(shape)} {name}" for name, shape in SHAPES.items())
TEXT = f"""
<ir_version: 10, opset_import: ["": 21]>
main (int64[n] ids, bool more, {WEIGHTS}) => (float[n, m] y)
{{
    rows = Gather (table, ids)
    a = MatMul (rows, square)
    b = MatMul (a, wide)
    c = MatMul (b, fine)
    d = Add (c, vector)
    y = If (more) <
        then_branch = yes () => (float[n, m] t) {{ t = MatMul (d, square) }},
        else_branch = no () => (float[n, m] e) {{ e = Identity (d) }}
    >
}}
"""


def model() -> ir.Model:
    """All weights but `fine` are numbers of 16 bits."""
    proto = parser.parse_model(TEXT)
    generator = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = generator.standard_normal(shape).astype(np.float32)
        array = array if name == "fine" else array.astype(np.float16).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    del proto.graph.input[2:]
    return ir.serde.deserialize_model(proto)


def outputs(path: Path, more: bool, optimised: Path | None = None) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
        settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"ids": np.arange(5), "more": np.array(more)})[0]
    return found


@pytest.mark.parametrize("external", [2**30, 1])
def test_a_file_of_16_bits_computes_what_the_wide_one_does(tmp_path: Path, external: int) -> None:
    wide, narrow = model(), model()
    narrow.metadata_props["dipc.formats"] = '["float32"]'
    narrow_initializers(narrow, INFO)
    assert narrow.metadata_props["dipc.formats"] == '["float16", "float32"]'
    write(wide, tmp_path / "wide.onnx", 2**30)
    write(narrow, tmp_path / "narrow.onnx", external)
    loaded = onnx.load(str(tmp_path / "narrow.onnx"))
    stored = {i.name: i.data_type for i in loaded.graph.initializer}
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert stored == {"table": half, "square": half, "wide": full, "fine": full, "vector": full}
    assert [node.op_type for node in loaded.graph.node].count("Cast") == 2
    for more in (True, False):
        found = outputs(tmp_path / "narrow.onnx", more, tmp_path / "optimised.onnx")
        assert np.array_equal(found, outputs(tmp_path / "wide.onnx", more))
    opened = onnx.load(str(tmp_path / "optimised.onnx"))
    assert "Cast" not in [node.op_type for node in opened.graph.node]  # done when the file was opened


def test_many_of_them_have_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.backends.onnx.file.WIDENED_BYTES", 2 * (8 * 16 + 16 * 16))
    for name, info in (("narrow", INFO), ("less", dataclasses.replace(INFO, own_bits={"wide": 32.0, "table": 32.0}))):
        made = model()
        narrow_initializers(made, info)
        write(made, tmp_path / f"{name}.onnx", 2**30)
    assert {p.name for p in tmp_path.iterdir()} == {"narrow.onnx", "narrow.onnx.data", "less.onnx"}
    assert np.array_equal(outputs(tmp_path / "narrow.onnx", True), outputs(tmp_path / "less.onnx", True))


def test_numbers_of_bfloat16(tmp_path: Path) -> None:
    wide, narrow = model(), model()
    for made in (wide, narrow):
        array = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).bfloat16().float() * 2.0**20
        made.graph.initializers["square"].const_value = ir.tensor(array.numpy(), name="square")
    narrow_initializers(narrow, INFO)
    assert narrow.graph.initializers["square"].dtype == ir.DataType.BFLOAT16
    for made, name in ((wide, "wide.onnx"), (narrow, "narrow.onnx")):
        write(made, tmp_path / name, 2**30)
    assert np.array_equal(outputs(tmp_path / "narrow.onnx", True), outputs(tmp_path / "wide.onnx", True))


def test_a_model_of_32_bits_is_left_alone() -> None:
    made = model()
    narrow_initializers(made, ModelInfo("m", "llama", 1, 8, 8, 16, 32.0, "0" * 16, True))
    assert {value.dtype for value in made.graph.initializers.values()} == {ir.DataType.FLOAT}
    assert all(node.op_type != "Cast" for node in made.graph)
