"""`gptq` and `sparsegpt`: all that a program goes through after them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import dipc
from dipc.backends.eager import EagerSession, packed_for
from dipc.calibration.file import Calibration
from dipc.errors import BadFile, UnsupportedModel, UsageError
from dipc.ir.selections import cache_aware
from dipc.memory.allocation import allocate
from dipc.memory.lowering import lower, mean_bits, program_density
from dipc.passes.gptq import Gptq
from dipc.passes.pack import Pack
from dipc.passes.sparsegpt import Sparsegpt
from dipc.pipeline.numeric_check import probe_logits
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import make_pass, parse_pipeline
from dipc.report.explain import verdicts
from dipc.report.sites import program_dict, program_tables
from kit.paths import SHARED
from kit.static_baselines import compiled, once
from kit.tiny_models import outlined, random_ids, tiny_llama

BOTH = [
    "gptq{bits=3 group=32},dip-ca",
    "sparsegpt,dip",
    "gptq{bits=2 group=32 symmetric=false}",
    "sparsegpt{pattern=2:4}",
]


@pytest.mark.parametrize("pipeline", BOTH)
def test_saved_and_loaded(pipeline: str, calibration: str, tmp_path: Path) -> None:
    result = once(pipeline, calibration)
    dipc.save(result, tmp_path / "out")
    found = dipc.load(tmp_path / "out")
    assert torch.equal(probe_logits(found), probe_logits(result.program))
    assert torch.equal(probe_logits(found.reference), probe_logits(result.program.reference))
    assert found.text() == result.program.text() and found.method == result.program.method
    assert lower(found) == lower(result.program) and found.parameter_count == tiny_llama().parameter_count


@pytest.mark.parametrize("pipeline", BOTH)
def test_it_is_a_function_of_its_input_and_prints_and_reports(pipeline: str, calibration: str) -> None:
    first, second = once(pipeline, calibration), compiled(pipeline, calibration)
    assert all(torch.equal(w, second.program.weights[n]) for n, w in first.program.weights.items())
    assert parse_pipeline(first.pipeline) == parse_pipeline(second.pipeline)
    shown = program_dict(first.program, first.log)
    assert shown["totals"]["density"] == pytest.approx(program_density(first.program))
    assert shown["totals"]["bits_per_weight"] == mean_bits(first.program) and program_tables(first.program, first.log)
    judged = verdicts(first.program, first.log)
    assert all(v.density == pytest.approx(program_density(first.program)) for v in judged)
    assert all(v.rewritten for v in judged) == (pipeline.startswith("sparsegpt") or "dip" in pipeline)


def test_an_estimate_prices_what_was_pruned_for_good(calibration: str) -> None:
    pruned = once("sparsegpt", calibration).program
    found = dipc.estimate(pruned, "a18", dram="70%", context=0)
    assert found.sparse is not None and found.speedup > 1.2
    assert found.sparse.allocation.resident_bytes == found.dense.allocation.resident_bytes
    assert dipc.estimate(outlined(), "a18", dram="70%", context=0).sparse is None


def test_a_share_of_dram_is_of_the_dense_model_whatever_was_pruned_before(calibration: str) -> None:
    pipeline = f'sparsegpt{{density=0.5 calibration="{calibration}"}},dip-ca{{hw=a18 dram="70%" context=0}}'
    program = compiled(pipeline, calibration).program
    dense = lower(program.reference).total_bytes
    assert lower(program).total_bytes < 0.9 * dense
    room = allocate(lower(program), round(0.7 * dense), 0)
    assert {site: c for site, (_, c) in cache_aware(program).items()} == room.capacities
    # The capacities that an estimate gives the same program on the same device.
    trace = dipc.synthetic_trace(program, 0, 16)
    price = dipc.estimate(program, "a18", dram="70%", context=0, trace=trace).sparse
    assert price is not None and price.allocation.capacities == room.capacities


def test_kernels_leave_what_they_cannot_read(calibration: str) -> None:
    for pipeline, reason in (
        ("gptq{bits=3 group=32},dip", "its codes have 3 bits, and packed products take those of 4 and 8"),
        ("sparsegpt,dip", "its weight is pruned for good, and packed products take whole matrices"),
    ):
        program = once(pipeline, calibration).program
        assert [m.reason for m in Pack().run(program).mismatches] == [reason] * 6
        assert torch.equal(probe_logits(packed_for(program, 100)), probe_logits(program))
    assert len(Pack().run(once("gptq{group=32},dip", calibration).program).matches) == 2


def test_a_calibration_is_asked_for(calibration: str, tmp_path: Path) -> None:
    for name in ("gptq", "sparsegpt"):
        with pytest.raises(UsageError, match=rf"{name} needs a calibration: run `dipc calibrate MODEL"):
            run_pipeline(tiny_llama(), parse_pipeline(name))
        with pytest.raises(BadFile, match="no such calibration"):
            run_pipeline(tiny_llama(), [make_pass(name, {"calibration": str(tmp_path / "absent")})])
        with pytest.raises(UsageError, match=rf"{name}: a method has rewritten the MLPs already; put {name} before it"):
            compiled(f"dip,{name}{{weights=all}}" if name == "sparsegpt" else f"dip,{name}", calibration)
        with pytest.raises(UsageError, match=rf"put {name} before pack"):
            once(f"dip,pack,{name}", calibration)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="gptq: bits=8: choose one of 4, 3, 2"):
        Gptq(bits=8)
    with pytest.raises(UsageError, match="density=0 is outside"):
        Sparsegpt(density=0)
    with pytest.raises(UsageError, match="sparsegpt: pattern=1:2: choose unstructured or 2:4 or 4:8"):
        Sparsegpt(pattern="1:2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"sparsegpt: pattern=2:4 keeps half of the weights, not 0.7"):
        Sparsegpt(pattern="2:4", density=0.7)
    assert str(parse_pipeline("sparsegpt{pattern=2:4 density=0.5}")[0]) == "sparsegpt{pattern=2:4}"


def test_a_model_without_weights_has_the_sizes(config: Path, tmp_path: Path) -> None:
    bare = dipc.capture(config)
    apart = 192 * 128 + 5 * 128  # the table and the norms have 16 bits
    for bits in (4, 3, 2):
        program = dipc.compile(bare, f"gptq{{bits={bits}}},dip-ca", check_numerics=True).program
        assert all(w.device.type == "meta" for w in program.weights.values())
        assert lower(program).total_bytes == (bare.parameter_count - apart) * (bits + 0.25) / 8 + apart * 2
    mlps = 2 * 3 * 128 * 256
    for pattern, density in itertools.product(("unstructured", "2:4", "4:8"), (0.5, 0.3)):
        if pattern != "unstructured" and density != 0.5:
            continue
        result = dipc.compile(bare, f"sparsegpt{{density={density} pattern={pattern}}},dip")
        kept = sum(w.numel() for n, w in result.program.weights.items() if n.endswith(".values"))
        assert kept == pytest.approx(density * mlps, abs=12)
        assert lower(result.program).mlp_bytes == mlps / 8 + 2 * kept
        dipc.save(result, tmp_path / f"{pattern}{density}".replace(":", "-"))
        assert dipc.estimate(result.program, "a18", dram="80%", context=0).sparse is not None


def test_three_bits_cannot_be_exported_and_pruned_weights_can(calibration: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from dipc.backends.onnx.session import OnnxSession

    for bits, axis in ((2, "inputs"), (3, "outputs")):
        program = once(f"gptq{{bits={bits} group=32 axis={axis}}}", calibration).program
        with pytest.raises(UnsupportedModel, match=f"weights of {bits} bits have no ONNX form; quantise"):
            dipc.export(program, "onnx", tmp_path / "no")
    program = once("sparsegpt,dip", calibration).program
    export = dipc.export(program, "onnx", tmp_path / "out")
    assert export.operators["Unmask"] == 6
    ids = random_ids(8)
    found, expected = OnnxSession(tmp_path / "out").step(ids).logits, EagerSession(program).step(ids).logits
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def test_trained_weights_of_a_small_model(tmp_path: Path) -> None:
    """On a trained model the orders are those of the papers, on text that was not calibrated on."""
    folder = SHARED / "models" / "tinystories656K"
    if not folder.is_dir():
        pytest.skip("no trained model beside the checkout")
    program = dipc.compile(folder, "outline-glu").program
    text = (SHARED / "data" / "tinystories" / "stories.txt").read_text("utf-8")
    ids = program.tokenizer(text[:60_000], add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: 32 * 128]).view(32, 128)
    path = tmp_path / "c.safetensors"
    Calibration({"model": program.info.name, "digest": program.info.digest}, {"windows": windows}).save(path)
    options: dict[str, Any] = {"text": text[800_000:], "seq_len": 128, "max_tokens": 2048}
    perplexity = {
        pipeline: dipc.evaluate(dipc.compile(program, pipeline, calibration=path).program, **options).perplexity
        for pipeline in (
            "int4",
            "gptq",
            "gptq{bits=3}",
            "sparsegpt",
            "sparsegpt{pattern=4:8}",
            "sparsegpt{pattern=2:4}",
        )
    }
    assert perplexity["gptq"] < perplexity["int4"] < perplexity["gptq{bits=3}"]
    assert perplexity["sparsegpt"] < perplexity["sparsegpt{pattern=4:8}"] < perplexity["sparsegpt{pattern=2:4}"]
