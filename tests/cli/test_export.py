"""`dipc export` and `dipc compile --backend onnx`; what they write is tested in tests/backends/onnx."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dipc.artifact.writer import load
from dipc.errors import UnsupportedModel
from kit.command_line import Cli


def tiny_model_file(program: Any, *, pipeline: str) -> tuple[Any, dict[str, int]]:
    """Stands for the translation of the graph, which takes seconds: a model that only says what it came from."""
    import onnx_ir as ir

    x = ir.Value(name="input_ids", shape=ir.Shape([1, "seq"]), type=ir.TensorType(ir.DataType.INT64))
    node = ir.node("Identity", [x])
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "logits", x.shape, x.type
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 21}, name="tiny")
    model = ir.Model(graph, ir_version=10)
    model.metadata_props["dipc.pipeline"] = pipeline
    return model, {"PackedGatherLinear": len(program.mlps)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.backends.onnx.export.to_ir", tiny_model_file)


def test_export_writes_a_folder_and_says_what_is_in_it(cli: Cli, out: Path, tmp_path: Path) -> None:
    import onnx

    done = cli("export", out, "--to", "onnx", "-o", tmp_path / "out")
    assert done.code == 0 and "model.onnx" in done.out and "PackedGatherLinear" in done.out
    assert "input_ids" in done.out and f"wrote {tmp_path / 'out'}" in done.out
    told = {p.key: p.value for p in onnx.load(str(tmp_path / "out" / "model.onnx")).metadata_props}
    assert told["dipc.pipeline"] == ",".join(entry.text for entry in load(out).log)
    document = cli("export", out, "-o", tmp_path / "again", "--json").json()
    assert document["kind"] == "export" and document["outputs"] == ["logits"]
    assert document["files"]["model.onnx"] == (tmp_path / "again" / "model.onnx").stat().st_size
    assert (tmp_path / "again" / "tokenizer.json").is_file()


def test_export_refuses_a_folder_that_exists_and_a_model_without_weights(
    cli: Cli, out: Path, model: Path, tmp_path: Path
) -> None:
    cli("export", out, "-o", tmp_path).fails(2, "exists")
    cli("export", model / "config.json", "-o", tmp_path / "out").fails(2, "no weights to export")
    assert cli("export", out, "-o", tmp_path / "exported").code == 0
    for command in (("inspect",), ("explain",), ("export", "-o", tmp_path / "out")):
        for given in (tmp_path / "exported", tmp_path / "exported" / "model.onnx"):
            cli(*command, given).fails(2, f"{given}: this is an exported model")


def test_compile_with_a_backend_writes_the_export_into_the_artifact(cli: Cli, model: Path, tmp_path: Path) -> None:
    made = tmp_path / "out"
    assert cli("compile", model, "-p", "dip{density=0.5}", "-o", made, "--backend", "onnx").code == 0
    assert (made / "onnx" / "model.onnx").is_file()
    assert load(made).program.method.name == "dip"


def test_compile_with_a_backend_writes_both_or_nothing(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise UnsupportedModel("it has no ONNX form")

    monkeypatch.setattr("dipc.backends.onnx.export.to_ir", fails)
    arguments = ("compile", model, "-p", "dip{density=0.5}", "-o", tmp_path / "out", "--backend", "onnx")
    cli(*arguments).fails(3, "no ONNX form")
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_nothing_is_exported_to_run(cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("dipc.backends.onnx.export.to_ir", None)
    cli("run", out, "--backend", "onnx", "--prompt", "a").fails(6, "pip install 'dipc[onnx]'")


@pytest.mark.parametrize("absent", ["onnx", "onnxscript"])
def test_without_the_extra_nothing_is_begun(
    cli: Cli, out: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr("dipc.api.capture", None)
    monkeypatch.setattr("dipc.artifact.writer.load", None)
    wanted = f"exporting needs {absent}: pip install 'dipc[onnx]'"
    cli("export", out, "-o", tmp_path / "out").fails(6, wanted)
    cli("compile", model, "-p", "dip", "-o", tmp_path / "out", "--backend", "onnx").fails(6, wanted)
    assert list(tmp_path.iterdir()) == []
