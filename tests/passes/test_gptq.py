"""`gptq`: what it rounds, on which inputs it solves, and the bytes of its codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dipc
from dipc.ir.codes import CodeFormat
from dipc.memory.lowering import lower, mean_bits
from dipc.pipeline.numeric_check import deviation, probe_logits
from dipc.tuning.layerwise import run_layerwise
from dipc.tuning.solvers.gptq import gptq
from dipc.tuning.solvers.hessian import hessian_of
from kit.static_baselines import DOWN, WINDOWS, compiled, once, rounded, saved, squared
from kit.tiny_models import outlined, tiny_llama, tiny_model


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_changes_less_than_rounding(bits: int, symmetric: bool, calibration: str) -> None:
    plain = squared(rounded(bits, symmetric=symmetric))
    for order in ("false", "true"):
        options = f"bits={bits} group=32 symmetric={str(symmetric).lower()} act_order={order}"
        assert squared(once(f"gptq{{{options}}}", calibration).program) < 0.9 * plain


def test_gptq_rounds_what_int4_rounds_in_its_form(calibration: str) -> None:
    for options in ("{group=32}", "{group=32 axis=inputs symmetric=false}", "{weights=mlp}"):
        mine, theirs = once(f"gptq{options}", calibration), once(f"int4{options}", calibration)
        assert set(mine.log[-1].matches) == set(theirs.log[-1].matches)
        assert mine.log[-1].mismatches == theirs.log[-1].mismatches
        shapes = [{n: (w.shape, w.dtype) for n, w in p.program.weights.items()} for p in (mine, theirs)]
        assert shapes[0] == shapes[1] and lower(mine.program) == lower(theirs.program)
        assert mine.program.text().partition("\n")[2] == theirs.program.text().partition("\n")[2]


def test_the_first_matrix_is_solved_on_the_dense_models_inputs(calibration: str) -> None:
    """Where inputs are as they were, the codes are the solver's own."""
    program = outlined()
    linear = next(n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default)
    found: list[Tensor] = []
    run_layerwise(program, WINDOWS, lambda n, v: found.append(hessian_of(v.of(n.args[0]))) if n is linear else None)
    name = str(linear.args[1].target)
    expected = gptq(program.weights[name], found[0], CodeFormat(3, 32, 1))
    after = once("gptq{bits=3 group=32}", calibration).program
    assert torch.equal(after.weights[f"{name}.codes"], expected.codes)
    assert torch.equal(after.weights[f"{name}.scales"], expected.scales)


def test_the_dense_program_is_quantised_with_the_same_codes(calibration: str) -> None:
    program = once("gptq{bits=3 group=32},dip", calibration).program
    alone = once("gptq{bits=3 group=32}", calibration).program
    assert torch.equal(probe_logits(program.reference), probe_logits(alone)) and alone.reference is alone
    assert program.method.name == "dip" and "gptq{" in program.method.options
    exact = compiled("gptq{bits=3 group=32},dip{density=1}", calibration, check_numerics=True).program
    assert deviation(exact.reference, exact) <= 1e-5


@pytest.mark.parametrize(("bits", "per_weight"), [(4, 4.5), (3, 3.5), (2, 2.5)])
def test_bytes_of_codes_by_hand(bits: int, per_weight: float, calibration: str) -> None:
    """Groups of 32 add half a bit, but for d_ff of 48, of which each column has two scales."""
    program = once(f"gptq{{bits={bits} group=32 weights=mlp}},dip", calibration).program
    columns = {"gate": 48 * bits / 8 + 2 * 2, "down": 32 * bits / 8 + 2}
    sites = {s.name: (s.units, s.unit_bytes) for s in lower(program).sites}
    assert sites["layers.0.input"] == (32, 2 * columns["gate"]) and sites["layers.1.glu"] == (48, columns["down"])
    assert 8 * columns["down"] / 32 == per_weight
    assert program.weights[f"{DOWN}.codes"].shape == (32, 48 * bits // 8)
    total = sum(w.nbytes for n, w in program.weights.items() if not n.startswith("constant."))
    assert lower(program).total_bytes == total
    assert program.parameter_count == tiny_llama().parameter_count and type(program.parameter_count) is int
    assert mean_bits(program) == 8 * total / tiny_llama().parameter_count


def test_what_no_whole_number_of_bytes_holds_is_left(tmp_path: Path) -> None:
    program = dipc.capture(tiny_model(intermediate_size=44), name="tiny")
    path = saved(program, tmp_path)
    log = compiled("gptq{bits=3 group=32}", path, program).log[-1]
    reason = "its 44 columns are no multiple of 8, and eight 3-bit codes share three bytes"
    assert [str(m) for m in log.mismatches if "down" in m.where] == [
        f"model.layers.{i}.mlp.down_proj: {reason}" for i in (0, 1)
    ]
    assert not [m for m in compiled("gptq{bits=2 group=32}", path, program).log[-1].mismatches if "down" in m.where]
    pruned = compiled("sparsegpt", path, program).log[-1]
    assert [m.reason for m in pruned.mismatches] == [
        "its 44 columns are no multiple of 8, and eight mask bits share a byte"
    ] * 2
