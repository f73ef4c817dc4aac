"""Codes in place of a captured program's matrices: what the program computes, holds, and is priced at."""

from __future__ import annotations

import pytest
import torch

import dipc
from dipc.errors import UnsupportedModel
from dipc.frontend.stored_codes import with_codes
from dipc.ir.codes import round_to_nearest
from dipc.ir.operator import argument, has_argument, is_dequantized
from dipc.ir.program import is_buffer
from dipc.memory.lowering import lower
from dipc.pipeline.numeric_check import probe_logits
from kit.coded import coded, matrices, values, widened
from kit.quantization import TABLE, compiled
from kit.runs import relative
from kit.tiny_models import tiny_llama, tiny_model


@pytest.mark.parametrize("tied", [False, True])
def test_a_program_computes_what_its_codes_say_bit_for_bit(tied: bool) -> None:
    program = tiny_llama(tie_word_embeddings=tied)
    after, codes = coded(program)
    assert torch.equal(probe_logits(after), probe_logits(widened(program, codes)))
    assert not matrices(program).keys() & after.weights.keys()
    assert after.parameter_count == program.parameter_count
    assert after.info.digest != program.info.digest


def test_a_tied_table_is_stored_once_and_gives_rows_to_lookups() -> None:
    after, _ = coded(tiny_llama(tie_word_embeddings=True))
    held = {n: w for n, w in after.weights.items() if n.startswith(TABLE)}
    assert {n.rpartition(".")[2]: w for n, w in held.items()}.keys() == {"codes", "scales", "minima"}
    reads = [n.target.name() for n in after.graph.nodes if n.op == "call_function" and TABLE in str(n.all_input_nodes)]
    assert not [r for r in reads if "embedding" in r]
    # All of it is read for every token, by the head; untied, the table is looked up and not read.
    assert lower(after).resident_unread_bytes == 0
    apart, parts = coded(tiny_llama())
    assert lower(apart).resident_unread_bytes == parts[TABLE].size_bytes


def test_codes_are_priced_at_what_they_take() -> None:
    program = tiny_llama(tie_word_embeddings=True)
    after, codes = coded(program)
    others = [w for n, w in after.weights.items() if w.dim() != 2 and not is_buffer(n)]
    stored = sum(q.size_bytes for q in codes.values()) + sum(w.numel() * w.element_size() for w in others)
    assert lower(after).total_bytes == stored


def test_methods_and_packing_follow() -> None:
    """At density 1 a method computes what the dense program does; groups along the inputs are shared by the columns."""
    after, _ = coded(tiny_llama())
    dense, sparse = compiled("outline-glu", after).program, compiled("dip{density=1}", after).program
    assert torch.allclose(probe_logits(sparse), probe_logits(dense), rtol=1e-4, atol=1e-4)
    mlp = sparse.mlps[0]
    assert (mlp.gate, mlp.d_model, mlp.d_ff) == ("model.layers.0.mlp.gate_proj.weight", 32, 48)
    assert {s.name for s in lower(sparse).sites} == {f"layers.{i}.{p}" for i in (0, 1) for p in ("input", "glu")}


def test_a_fused_gate_and_up_are_cut_where_their_codes_are() -> None:
    program = dipc.capture(tiny_model("phi3"))
    after, codes = coded(program)
    assert any("gate_up" in name for name in codes)
    outlined = compiled("outline-glu", after).program
    assert outlined.mlps and torch.allclose(probe_logits(outlined), probe_logits(after), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_codes_stays_and_is_named() -> None:
    program = tiny_llama()
    q = round_to_nearest(torch.randn(8, 8), 8, 8, 1)
    after, wide = with_codes(program, {"nothing.weight": q, "model.layers.0.mlp.up_proj.weight": q})
    assert after is program
    assert [str(m) for m in wide] == [
        "nothing: the program has no weight of that name",
        "model.layers.0.mlp.up_proj: its codes are of a matrix [8, 8], and the weight is [48, 32]",
    ]


def test_the_dense_program_gets_the_same_codes() -> None:
    program = compiled("dip{density=0.5}").program
    name = "model.layers.0.mlp.up_proj.weight"
    after, wide = with_codes(program, {name: round_to_nearest(program.weights[name], 8, 16, 1)})
    assert not wide and after.dense is not None
    assert after.dense.weights[f"{name}.codes"] is after.weights[f"{name}.codes"]
    assert name not in after.dense.weights


def test_packed_products_read_them_and_codes_of_5_and_6_bits_take_8_there() -> None:
    after, _ = coded(tiny_llama())
    sparse = compiled("dip{density=1}", after).program
    packed = compiled("pack", sparse).program
    assert relative(probe_logits(packed), probe_logits(sparse)) < 1e-3
    units = {
        int(argument(n, "bits")) for n in packed.graph.nodes if n.op == "call_function" and has_argument(n, "units")
    }
    assert units == {4, 8} and not [n for n in packed.graph.nodes if "mlp" in str(n.meta) and is_dequantized(n)]


def test_codes_are_not_rounded_again_but_may_be_widened_first() -> None:
    after, codes = coded(tiny_llama())
    with pytest.raises(UnsupportedModel, match=r"^int4 found nothing to rewrite in tiny .*: it is quantised already$"):
        compiled("int4{group=32}", after)
    wide = compiled("widen", after).program
    assert torch.equal(probe_logits(wide), probe_logits(after))
    assert all(torch.equal(wide.weights[name], values(q)) for name, q in codes.items())
    assert any(name.endswith(".codes") for name in compiled("widen,int4{group=32}", after).program.weights)
