"""Every method on quantised weights, packed, saved and loaded, in ONNX Runtime, and priced from a config alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import dipc
from dipc.api import Program, compile
from dipc.backends.eager import EagerSession
from dipc.ir.operator import weight_name
from dipc.memory.lowering import active_units, lower
from dipc.ops.dequantize import OPERATOR as DEQUANTIZE
from dipc.pipeline.pass_ import PASSES
from dipc.pipeline.sparsity_pass import SparsityPass
from kit.handmade_calibration import tiny_calibration
from kit.runs import agreement, relative, run_pieces
from kit.tiny_models import outlined, random_ids

METHODS = [name for name in PASSES.builtin() if issubclass(PASSES.get(name), SparsityPass)]
IDS = random_ids(24)


def compiled(text: str) -> Program:
    return compile(outlined(), text, calibration=tiny_calibration()).program


@pytest.mark.parametrize(("name", "axis"), [*((name, "outputs") for name in METHODS), ("gate", "inputs")])
def test_quantised_before_or_after(name: str, axis: str) -> None:
    """Whichever comes first: the same but for norms of rounded weights, and a predictor that is rounded too."""
    rounding = f"int8{{group=32 axis={axis} weights=mlp}}"
    before, after = compiled(f"{rounding},{name}"), compiled(f"{name},{rounding}")
    first, second = (run_pieces(program, IDS, 24) for program in (before, after))
    assert agreement(first[1], second[1]) > 0.99 and relative(first[0], second[0]) < 0.1
    assert lower(before).mlp_bytes == lower(after).mlp_bytes < lower(compiled(name)).mlp_bytes / 3
    assert before.method.density == after.method.density


def test_norms_of_quantised_weights_are_of_what_the_codes_stand_for() -> None:
    program = compiled("int4{group=32 weights=mlp},wina")
    first = program.mlps[0]
    made = [n for n in program.nodes_of(DEQUANTIZE.target) if n.meta["module"] == first.name]
    values = {weight_name(n): DEQUANTIZE.target(*(_value(program, a) for a in n.args)) for n in made}
    gate, up, down = (values[f"{name}.codes"] for name in (first.gate, first.up, first.down))
    norms = [program.weights[f"{first.name}.norm.{site}"] for site in ("input", "glu")]
    torch.testing.assert_close(norms[0], torch.cat([gate, up]).norm(dim=0))
    torch.testing.assert_close(norms[1], down.norm(dim=0))
    assert not torch.allclose(norms[1], compiled("wina").weights[f"{first.name}.norm.glu"])


def _value(program: Program, argument: object) -> object:
    return program.weights[str(argument.target)] if isinstance(argument, torch.fx.Node) else argument


@pytest.mark.parametrize("text", [*METHODS, "int8{group=32},gate", "int8{group=32 axis=inputs},predictor"])
def test_packed(text: str) -> None:
    """The same masks, and sums in another order; in pieces, too."""
    plain, packed = compiled(text), compiled(f"{text},pack")
    assert {"packed" in str(n.target) for n in packed.graph.nodes} == {True, False}
    assert lower(packed).mlp_bytes == lower(plain).mlp_bytes and active_units(packed) == active_units(plain)
    expected, masks, _ = run_pieces(plain, IDS, 24)
    got, seen, _ = run_pieces(packed, IDS, 5)
    assert agreement(seen, masks) >= 0.999 and relative(got, expected) <= (5e-3 if "int8" in text else 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """The artifact has the method's own weights, and needs no calibration any more."""
    program = compiled(f"{name}{{scope=decode}}")
    dipc.save(program, tmp_path / "out")
    loaded = dipc.load(tmp_path / "out")
    assert loaded.text() == program.text() and set(loaded.weights) == set(program.weights)
    assert torch.equal(run_pieces(loaded, IDS, 24)[0], run_pieces(program, IDS, 24)[0])
    assert loaded.method == program.method and set(loaded.reference.weights) == set(outlined().weights)


@pytest.mark.parametrize("text", ["predictor{layers=0},wina-ca{layers=1}", "up{layers=0 SCOPE},cats{layers=1 SCOPE}"])
def test_in_onnx_runtime(text: str, tmp_path: Path) -> None:
    """Exported and run by function bodies in stock ONNX Runtime: the same masks and logits as in torch."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

    program = compiled(text.replace("SCOPE", "scope=decode"))
    dipc.export(program, "onnx", tmp_path / "onnx", pack=False)
    theirs = OnnxSession(tmp_path / "onnx", record=True, options=RuntimeOptions(False, threads=1))
    mine = EagerSession(program, record=True)
    for ids, dense in ((IDS[:12], program.method.scope == "decode"), (IDS[12:], False)):
        got, expected = theirs.step(ids, dense=dense), mine.step(ids, dense=dense)
        assert agreement(got.masks, expected.masks) >= 0.999
        assert relative(got.logits, expected.logits) <= 1e-5


def bare() -> Program:
    """The tiny Llama as if captured from its config alone."""
    weights = {name: weight.to("meta") for name, weight in outlined().weights.items()}
    return outlined().replace(weights=weights, info=dataclasses.replace(outlined().info, has_weights=False))


@pytest.mark.parametrize("name", METHODS)
def test_priced_from_a_config_alone(name: str) -> None:
    """Without a calibration: masks are made up, with as many units as are expected to be kept."""
    program = compile(bare(), name).program
    density = PASSES.get(name)().density  # type: ignore[attr-defined]
    assert program.method.density == pytest.approx(density, abs=0.01)
    assert all(weight.device.type == "meta" for weight in program.weights.values())
    priced = dipc.estimate(program, "a18", dram="1 MB", context=0)
    assert priced.sparse is not None and priced.sparse.tokens == 72  # three quarters of the synthetic trace's
    extra = lower(program).resident_bytes - lower(outlined()).resident_bytes
    assert (extra > 0) == name.startswith(("predictor", "wina", "sensitivity"))
