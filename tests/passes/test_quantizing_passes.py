"""`int4` and `int8`: what they round and what they leave, and with methods before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import dipc
from dipc.errors import UnsupportedModel, UsageError
from dipc.ir.codes import round_to_nearest
from dipc.ir.program import Program
from dipc.ir.verify import verify_structure
from dipc.memory.lowering import lower, mean_bits, program_density
from dipc.passes.int4 import Int4
from dipc.passes.int8 import Int8
from dipc.pipeline.numeric_check import deviation, probe_logits
from dipc.pipeline.text import parse_pipeline
from dipc.report.explain import verdicts
from dipc.report.sites import program_dict, program_tables
from kit.quantization import DEQUANTIZE, compiled, sites, small_glu, tied
from kit.runs import run_pieces
from kit.tiny_models import outlined, random_ids, tiny_llama, tiny_model


def test_every_linear_layer_is_rounded_and_the_rest_is_as_it_was() -> None:
    result = compiled("int4{group=32}").log[-1]
    linears = {n.removesuffix(".weight") for n in tiny_llama().weights if "proj" in n or "lm_head" in n}
    assert set(result.matches) == linears and len(linears) == 15
    assert [str(m) for m in result.mismatches] == ["model.embed_tokens: it is a table of which rows are looked up"]
    after = compiled("int4{group=32}").program
    kept = {n for n in after.weights if not n.endswith((".codes", ".scales"))}
    assert kept == {n for n in outlined().weights if n.removesuffix(".weight") not in linears}
    assert result.operators == {"dipc.dequantize": 15}


def test_codes_are_those_of_the_weights() -> None:
    after = compiled("int4{axis=inputs group=32 symmetric=false}").program
    name = "model.layers.0.mlp.down_proj.weight"
    expected = round_to_nearest(tiny_llama().weights[name], 4, 32, 1, symmetric=False)
    assert expected.zeros is not None
    for part in ("codes", "scales", "zeros"):
        assert torch.equal(after.weights[f"{name}.{part}"], getattr(expected, part))


def test_the_axis_is_that_of_the_mlps_and_other_layers_are_grouped_along_their_inputs() -> None:
    for axis, expected in (("outputs", 0), ("inputs", 1)):
        nodes = compiled(f"int8{{axis={axis}}}").program.nodes_of(DEQUANTIZE)
        assert {n.args[5] for n in nodes if n.meta["module"].endswith("mlp")} == {expected}
        assert {n.args[5] for n in nodes if not n.meta["module"].endswith("mlp")} == {1}


def test_only_the_mlps() -> None:
    result = compiled("int4{weights=mlp}")
    assert len(result.log[-1].matches) == 6 and all(".mlp." in m for m in result.log[-1].matches)
    assert not result.log[-1].mismatches


def test_a_matrix_is_made_just_before_it_is_read() -> None:
    program = compiled("int4,dip").program
    for node in program.nodes_of(DEQUANTIZE):
        assert next(iter(node.users)).meta["module"] == node.meta["module"]
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    assert calls[-2].target is DEQUANTIZE and calls[-1].args[1] is calls[-2]  # the last linear layer's


def test_an_odd_number_of_columns_is_left_by_4_bits_and_taken_by_8() -> None:
    program = small_glu(d_model=8, d_ff=7)
    result = Int4().run(program)
    assert result.matches == ("mlp.gate", "mlp.up")
    assert [str(m) for m in result.mismatches] == [
        "mlp.down: its 7 columns are an odd number, and two 4-bit codes share a byte"
    ]
    assert len(Int8().run(program).matches) == 3
    half = dipc.compile(result.program, "dip").program
    assert program_density(half) == pytest.approx((2 * 4 * 7 + 4 * 8) / (3 * 56))  # in weights, not in bytes


def test_what_is_not_finite_or_read_by_something_else_is_left() -> None:
    broken = small_glu()
    broken.weights["mlp.up"][0, 0] = float("inf")
    assert [str(m) for m in Int8().run(broken).mismatches] == ["mlp.up: some of its values are not finite"]
    result = Int8().run(compiled("dip", small_glu()).program.replace(graph=_halved(small_glu()), dense=None))
    assert [str(m) for m in result.mismatches] == ["mlp.up: aten.mul.Tensor reads it, which is no linear layer"]


def _halved(program: Program) -> fx.Graph:
    """The graph with one of its weights multiplied by a half first."""
    graph = program.edit()
    weight = next(n for n in graph.nodes if n.target == "mlp.up")
    with graph.inserting_after(weight):
        half = graph.call_function(torch.ops.aten.mul.Tensor, (weight, 0.5))
    weight.replace_all_uses_with(half, delete_user_cb=lambda user: user is not half)
    return graph


def test_rounding_twice_finds_nothing() -> None:
    once = compiled("int8").program
    with pytest.raises(UnsupportedModel, match=r"int4 found nothing to rewrite in tiny .*: it is quantised already"):
        compiled("int4", once)
    both = compiled("int4{weights=mlp},int8").program
    assert {n.args[3] for n in both.nodes_of(DEQUANTIZE)} == {4, 8}
    assert both.parameter_count == tiny_llama().parameter_count


def test_what_is_packed_must_be_quantised_before() -> None:
    with pytest.raises(
        UsageError, match=r"int4: %packed_gather_\w+ reads a matrix that is packed; put int4 before pack"
    ):
        compiled("dip,pack,int4", small_glu())
    for axis in ("inputs", "outputs"):
        unpacked = compiled(f"int4{{group=32 axis={axis}}},dip", small_glu()).program
        program = compiled("pack", unpacked).program
        assert sites(program) == sites(unpacked) and mean_bits(program) == mean_bits(unpacked)
        assert lower(program).resident_bytes == lower(unpacked).resident_bytes
        assert program.parameter_count == unpacked.parameter_count and program_density(program) == 0.5
        assert Int8(weights="mlp").run(program).matches == ()


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="int4: group=16: choose one of 32, 64, 128"):
        Int4(group=16)
    with pytest.raises(UsageError, match="axis=up: choose inputs or outputs"):
        Int8(axis="up")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weights=some: choose all or mlp"):
        Int8(weights="some")  # type: ignore[arg-type]
    assert str(Int4(group=32, symmetric=False)) == "int4{group=32 symmetric=false}"
    assert str(parse_pipeline("int4{symmetric=true group=64}")[0]) == "int4"


@pytest.mark.parametrize(("family", "dtype", "linears"), [("phi3", "float32", 11), ("gemma", "bfloat16", 15)])
def test_families(family: str, dtype: str, linears: int) -> None:
    """Phi-3 computes gate and up in one linear layer, Gemma ties its tables."""
    model = tiny_model(family, **({"head_dim": 8} if family == "gemma" else {})).to(getattr(torch, dtype))
    program = compiled("int4,dip-ca", dipc.capture(model)).program
    assert [str(n.args[6]) for n in program.nodes_of(DEQUANTIZE)] == [f"torch.{dtype}"] * linears
    assert program.parameter_count == sum(p.numel() for p in model.parameters())
    assert bool(probe_logits(program).isfinite().all())


@pytest.mark.parametrize(
    "form", ["int4", "int4{group=32 axis=inputs symmetric=false}", "int8{symmetric=false}", "int8"]
)
@pytest.mark.parametrize("method", ["dip", "dip-ca", "dip{scope=decode layers=1}"])
def test_before_or_after_a_method_is_the_same(form: str, method: str) -> None:
    first, second = compiled(f"{form},{method}").program, compiled(f"{method},{form}").program
    assert torch.equal(probe_logits(first), probe_logits(second))
    assert torch.equal(probe_logits(first.reference), probe_logits(second.reference))
    assert deviation(tiny_llama(), first.reference) > 1e-4, "the dense program has full precision"
    assert lower(first) == lower(second) and lower(first.reference) == lower(second.reference)
    assert set(first.weights) == set(second.weights) and first.mlps == second.mlps == outlined().mlps
    assert first.method.density == second.method.density == program_density(second)
    assert (first.method.options, second.method.options) == (f"{form},{method}", f"{method},{form}")


@pytest.mark.parametrize("pipeline", ["int4,dip", "dip-ca,int8", "int4{axis=inputs},dip-ca{scope=decode}"])
def test_one_call_and_token_by_token(pipeline: str) -> None:
    program, ids = compiled(pipeline).program, random_ids(20)
    logits, masks, _ = run_pieces(program, ids, 20)
    again, seen, _ = run_pieces(program, ids, 1)
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-4)
    assert all(torch.equal(masks[s], seen[s]) for s in masks)


def test_a_method_at_density_one_is_the_quantised_model() -> None:
    for pipeline in ("int4,dip{density=1}", "int8,dip-ca{density=1}"):
        program = compiled(pipeline, check_numerics=True).program
        assert deviation(program.reference, program) <= 1e-5


def test_a_weight_that_only_the_dense_program_reads_is_rounded_there() -> None:
    program = compiled("dip", small_glu()).program
    graph = program.edit()
    gate = next(n for n in graph.nodes if n.target == "mlp.gate")
    gate.replace_all_uses_with(next(n for n in graph.nodes if n.target == "mlp.up"))
    result = Int8().run(program.replace(graph=graph))
    verify_structure(result.program)
    assert result.program.dense is not None
    assert "mlp.gate.codes" in result.program.dense.weights and "mlp.gate" not in result.program.weights


def test_8_bits_change_little_and_4_bits_more() -> None:
    # Tolerances tell rounding (0.12 and 0.01 here) from a wrong axis, scale or packing (about 1).
    for model in (tiny_llama(), tiny_llama(tie_word_embeddings=True)):
        four, eight = (compiled(p, model, check_numerics=True).log[-1].deviation for p in ("int4", "int8"))
        assert four is not None and eight is not None
        assert 0.02 < four < Int4.tolerance / 2 and 1e-3 < eight < Int8.tolerance / 2 and eight < four / 5


def test_perplexity_of_the_embedded_model() -> None:
    dense = dipc.compile("demo", "outline-glu").program
    options: dict[str, Any] = {"seq_len": 256, "max_tokens": 1024}
    plain = dipc.evaluate(dense, **options).perplexity
    assert dipc.evaluate(dipc.compile(dense, "int8").program, **options).perplexity == pytest.approx(plain, rel=2e-3)
    four = dipc.evaluate(dipc.compile(dense, "int4,dip").program, **options)
    assert plain < four.dense_perplexity < 1.05 * plain
    assert four.dense_perplexity < four.perplexity < 1.25 * plain


def test_the_tolerance_finds_halves_of_bytes_in_the_wrong_order() -> None:
    good = compiled("int4").program
    swapped = {n: (w << 4 | w >> 4) if n.endswith(".codes") else w for n, w in good.weights.items()}
    assert deviation(tiny_llama(), good.replace(weights=swapped)) > Int4.tolerance


def test_a_rounded_mlp_is_the_mlp_of_the_rounded_weights() -> None:
    program = small_glu()
    q = Int4(group=32).run(program).program
    weights = {}
    for name, weight in program.weights.items():
        r = round_to_nearest(weight, 4, 32, 0)
        weights[name] = torch.ops.dipc.dequantize(r.codes, r.scales, r.zeros, 4, 32, 0, torch.float32)
    x = torch.randn(1, 3, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(q.module(x)[0], program.replace(weights=weights).module(x)[0])


@pytest.mark.parametrize("pipeline", ["int4{symmetric=false}", "int4,dip", "dip-ca,int8{weights=mlp axis=inputs}"])
@pytest.mark.parametrize("ties", [False, True])
def test_saved_and_loaded(pipeline: str, ties: bool, tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=ties)
    result = compiled(pipeline, model)
    dipc.save(result, tmp_path / "out")
    found = dipc.load(tmp_path / "out")
    assert torch.equal(probe_logits(found), probe_logits(result.program))
    assert torch.equal(probe_logits(found.reference), probe_logits(result.program.reference))
    assert found.text() == result.program.text() and found.method == result.program.method
    assert lower(found) == lower(result.program) and lower(found.reference) == lower(result.program.reference)
    assert found.parameter_count == model.parameter_count and found.info.digest == model.info.digest
    names = {n for p in (found, found.reference) for n in p.weights}
    size = sum({**found.weights, **found.reference.weights}[n].nbytes for n in names)
    assert (tmp_path / "out" / "weights.safetensors").stat().st_size < size + 16384


def test_what_was_saved_can_be_quantised_later(tmp_path: Path) -> None:
    dipc.save(compiled("dip"), tmp_path / "out")
    later = compiled("int4", dipc.load(tmp_path / "out")).program
    at_once = compiled("dip,int4").program
    assert torch.equal(probe_logits(later), probe_logits(at_once)) and lower(later) == lower(at_once)
    assert lower(later.reference) == lower(at_once.reference)


@pytest.mark.parametrize("model", [tiny_llama, tied])
def test_reports_name_the_rounding_and_count_parameters(model: Callable[[], Program]) -> None:
    result = compiled("int4,dip", model())
    shown = program_dict(result.program, result.log)
    assert shown["model"]["parameters"] == model().parameter_count
    assert shown["method"]["options"] == "int4,dip" and shown["totals"]["density"] == 0.5
    assert shown["totals"]["bits_per_weight"] == mean_bits(result.program)
    judged = verdicts(result.program, result.log)
    assert [(v.name, v.by, v.density) for v in judged] == [(f"model.layers.{i}.mlp", "dip", 0.5) for i in (0, 1)]
    assert program_tables(result.program, result.log)


def test_a_trace_belongs_to_the_program_that_it_was_recorded_on() -> None:
    plain, rounded = compiled("dip").program.method, compiled("int4,dip").program.method
    assert (plain.name, rounded.name) == ("dip", "dip") and plain.options != rounded.options
