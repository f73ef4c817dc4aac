"""A table that embeds tokens and is the head too: lookups keep it, the head reads a copy in codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dipc.backends.eager import EagerSession
from dipc.errors import UnsupportedModel
from dipc.ir.program import is_buffer
from dipc.memory.lowering import lower, mean_bits
from dipc.passes.int8 import Int8
from dipc.pipeline.numeric_check import probe_logits
from kit.quantization import TABLE, compiled, tied
from kit.tiny_models import outlined, random_ids, tiny_llama


@pytest.mark.parametrize("pipeline", ["int4{group=32}", "int8{symmetric=false}", "dip,int4", "int8,dip-ca"])
def test_a_tied_table_is_looked_up_as_it_was_and_multiplied_in_codes(pipeline: str) -> None:
    """As if the head had had a weight of its own."""
    result = compiled(pipeline, tied())
    log = next(entry for entry in result.log if "int" in entry.text)
    assert "model.embed_tokens" in log.matches and len(log.matches) == 15 and not log.mismatches
    apart = tiny_llama()
    weights = {**tied().weights, "lm_head.weight": tied().weights[TABLE]}
    untied = compiled(pipeline, apart.replace(weights={name: weights[name] for name in apart.weights})).program
    for program, same in ((result.program, untied), (result.program.reference, untied.reference)):
        assert torch.equal(program.weights[TABLE], tied().weights[TABLE])
        for part in (p for p in ("codes", "scales", "zeros") if f"lm_head.weight.{p}" in same.weights):
            assert torch.equal(program.weights[f"{TABLE}_copy.{part}"], same.weights[f"lm_head.weight.{part}"])
        assert len(program.weights) == len(same.weights)
        assert torch.equal(probe_logits(program), probe_logits(same))
        assert lower(program) == lower(same)
        assert program.parameter_count == tied().parameter_count == same.parameter_count - 96 * 32
        assert program.info.digest == tied().info.digest


def test_bytes_of_a_tied_table_by_hand() -> None:
    """A table of 96 x 32 values of 4 bytes, and its copy of a byte per two values and a scale per row."""
    before, after = lower(outlined(tie_word_embeddings=True)), lower(compiled("int4{group=32}", tied()).program)
    assert before.resident_unread_bytes == 0 and after.resident_unread_bytes == 96 * 32 * 4
    program = compiled("int4{group=32}", tied()).program
    head = sum(program.weights[f"{TABLE}_copy.{part}"].nbytes for part in ("codes", "scales"))
    assert head == 96 * (32 // 2 + 2)
    assert after.total_bytes == sum(w.nbytes for n, w in program.weights.items() if not is_buffer(n))
    assert mean_bits(program) == 8 * after.total_bytes / tied().parameter_count
    # A width is the price of the table; the copy has its own.
    assert after.resident_bytes - lower(program, 4).resident_bytes == (96 * 32 + 5 * 32) * 3.5


def test_a_tied_table_is_left_where_only_the_mlps_are_rounded_and_is_not_rounded_twice() -> None:
    only = compiled("int4{weights=mlp}", tied())
    assert len(only.log[-1].matches) == 6 and not any("_copy" in name for name in only.program.weights)
    assert lower(only.program).resident_unread_bytes == 0
    both = compiled("int8", only.program)
    assert "model.embed_tokens" in both.log[-1].matches
    assert both.program.parameter_count == tied().parameter_count
    with pytest.raises(UnsupportedModel, match="it is quantised already"):
        compiled("int4", both.program)


def test_a_tied_table_that_something_else_reads_is_left() -> None:
    graph = tied().edit()
    table = next(n for n in graph.nodes if n.target == TABLE)
    (logits,) = (n for n in table.users if n.target is torch.ops.aten.linear.default)
    with graph.inserting_before(logits):
        logits.replace_input_with(table, graph.call_function(torch.ops.aten.mul.Tensor, (table, 0.5)))
    result = Int8().run(tied().replace(graph=graph))
    assert "model.embed_tokens" not in result.matches
    assert [str(m) for m in result.mismatches] == [
        "model.embed_tokens: aten.mul.Tensor reads it, which is no linear layer"
    ]


def test_a_tied_model_is_exported_with_its_table_and_its_head(tmp_path: Path) -> None:
    """ONNX Runtime looks rows up in the table and multiplies with the codes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from dipc.backends.onnx.export import export
    from dipc.backends.onnx.session import OnnxSession

    program = compiled("int4{group=32 symmetric=false}", tied()).program
    export(program, tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    stored = {i.name for i in graph.initializer if i.name.startswith(TABLE) and "scales" not in i.name}
    takers = {(n.op_type, name) for n in graph.node for name in n.input if name in stored}
    head = {("MatMulNBits", f"{TABLE}_copy.{part}") for part in ("codes", "zeros")}
    assert takers == {("Gather", TABLE), *head}
    ids = random_ids(8)
    found, expected = OnnxSession(tmp_path / "out").step(ids).logits, EagerSession(program).step(ids).logits
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.05  # activations are of 8 bits there
