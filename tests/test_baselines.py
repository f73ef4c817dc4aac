"""`gptq` and `sparsegpt`: what they store and what it weighs, and all that a program goes through after them."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SHARED, outlined, random_ids, tiny_llama, tiny_model
from torch import Tensor

import dipc
from dipc.backends.eager import EagerSession
from dipc.calibration.file import Calibration
from dipc.decoding import for_decoding
from dipc.errors import BadFile, UnsupportedModel, UsageError
from dipc.layerwise import run_layerwise
from dipc.lower import lower, mean_bits, program_density
from dipc.numerics import deviation, probe_logits
from dipc.ops.unmask import mask_of
from dipc.ops.unmask import reference as unmask
from dipc.passes.gptq import Gptq
from dipc.passes.pack import Pack
from dipc.passes.sparsegpt import Sparsegpt
from dipc.pipeline import Compiled, make_pass, parse_pipeline, run_pipeline, with_calibration
from dipc.program import Program
from dipc.quantize import QuantizedTensor, round_to_nearest
from dipc.report.explain import verdicts
from dipc.report.sites import program_dict, program_tables
from dipc.solvers.gptq import gptq
from dipc.solvers.hessian import hessian_of

WINDOWS = random_ids(8 * 48).view(8, 48)
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A calibration of the tiny Llama, tied or not, that holds tokens alone."""
    return saved(tiny_llama(), tmp_path_factory.mktemp("calibration"))


def saved(program: Program, folder: Path) -> str:
    path = folder / "calibration.safetensors"
    Calibration({"model": program.info.name, "digest": program.info.digest}, {"windows": WINDOWS}).save(path)
    return str(path)


def compiled(pipeline: str, calibration: str, program: Program | None = None, **options: Any) -> Compiled:
    """The tiny Llama, or another program, through a pipeline whose passes read a calibration."""
    return run_pipeline(program or tiny_llama(), with_calibration(parse_pipeline(pipeline), calibration), **options)


@cache
def once(pipeline: str, calibration: str) -> Compiled:
    """The same of the tiny Llama, compiled once: programs are values, and nobody changes them."""
    return compiled(pipeline, calibration)


def logits(program: Program) -> Tensor:
    """On the calibration's own text, [N, T, V]."""
    return torch.stack([EagerSession(program).step(ids).logits for ids in WINDOWS])


def squared(program: Program) -> float:
    """The mean squared difference of logits from the dense model's, on the calibration's text."""
    return float(((logits(program) - logits(tiny_llama())) ** 2).mean())


def rounded(bits: int, **form: Any) -> Program:
    """The tiny Llama with all linear layers rounded to the nearest code, outputs as groups of MLPs."""
    program = outlined()
    weights = dict(program.weights)
    for name in (n for n in weights if "proj" in n or n == "lm_head.weight"):
        q = round_to_nearest(weights[name], bits, 32, 0 if ".mlp." in name else 1, **form)
        weights[name] = values(q)
    return program.replace(weights=weights)


def values(q: QuantizedTensor) -> Tensor:
    found: Tensor = torch.ops.dipc.dequantize(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32)
    return found


# --- GPTQ ---


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
    expected = gptq(program.weights[name], found[0], 3, 32, 1)
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


# --- SparseGPT ---


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_sparsegpt_changes_less_than_magnitude(pattern: str, calibration: str) -> None:
    program = once(f"sparsegpt{{pattern={pattern}}}", calibration).program
    m = int(pattern[-1]) if ":" in pattern else 0
    weights = dict(outlined().weights)
    for name in (n for n in weights if ".mlp." in n):
        size = weights[name].abs()
        kept = unmask(*_parts(program, name)) != 0
        if m:
            blocks = size.unflatten(-1, (-1, m))
            keep = (blocks >= blocks.sort(descending=True).values[..., m // 2 - 1 : m // 2]).flatten(-2)
            assert bool((kept.unflatten(-1, (-1, m)).sum(-1) == m // 2).all())
        else:
            keep = size >= size.median()
        assert int(kept.sum()) == kept.numel() / 2
        weights[name] = torch.where(keep, weights[name], 0)
    assert squared(program) < 0.9 * squared(outlined().replace(weights=weights))


def _parts(program: Program, name: str) -> tuple[Tensor, Tensor]:
    return program.weights[f"{name}_copy.values"], program.weights[f"{name}_copy.kept"]


def test_the_dense_program_is_the_one_that_was_not_pruned(calibration: str) -> None:
    program = once("sparsegpt{density=0.7}", calibration).program
    assert torch.equal(probe_logits(program.reference), probe_logits(tiny_llama()))
    assert program.method.name == "sparsegpt" and program.method.scope == "all"
    assert program.method.density == program_density(program) == pytest.approx(0.7, abs=1e-3)
    assert once("sparsegpt", calibration).log[-1].matches == ("model.layers.0.mlp", "model.layers.1.mlp")
    assert once("sparsegpt", calibration).log[-1].operators == {"dipc.unmask": 6}
    exact = compiled("sparsegpt", calibration, check_numerics=True).log[-1].deviation
    assert exact is not None and exact <= 1e-5


def test_all_linear_layers_and_a_tied_table(calibration: str) -> None:
    tied = tiny_llama(tie_word_embeddings=True)
    log = once("sparsegpt{weights=all}", calibration).log[-1]
    assert "lm_head" in log.matches and "model.layers.0.self_attn.q_proj" in log.matches
    assert [str(m) for m in log.mismatches] == ["model.embed_tokens: it is a table of which rows are looked up"]
    path = str(Path(calibration).with_name("tied.safetensors"))
    Calibration({"model": "tiny", "digest": tied.info.digest}, {"windows": WINDOWS}).save(path)
    for pipeline in ("sparsegpt{weights=all}", "gptq{bits=3 group=32}"):
        program = compiled(pipeline, path, tied).program
        assert torch.equal(program.weights["model.embed_tokens.weight"], tied.weights["model.embed_tokens.weight"])
        assert program.parameter_count == tied.parameter_count
        assert any(n.startswith("model.embed_tokens.weight_copy.") for n in program.weights)


@pytest.mark.parametrize(("density", "after"), [(0.5, "dip"), (0.75, "dip{density=0.5}"), (0.5, "dip-ca")])
def test_bytes_of_kept_values_by_hand(density: float, after: str, calibration: str) -> None:
    """A column of gate and up has 48 bits and, on average, that share of 48 values of 4 bytes; twice."""
    program = once(f"sparsegpt{{density={density}}},{after}", calibration).program
    traffic = lower(program)
    sites = {s.name: [s.units, s.unit_bytes, s.unit_weights, s.kept_weights / s.weights] for s in traffic.sites}
    assert sites["layers.0.input"] == [32, 2 * (6 + density * 48 * 4), 2 * 48, density]
    assert sites["layers.1.glu"] == [48, 4 + density * 32 * 4, 32, density]
    assert program.method.density == program_density(program) == density * 0.5
    assert program.method.name == f"sparsegpt+{after.partition('{')[0]}"
    assert traffic.total_bytes == sum(w.nbytes for n, w in program.weights.items() if not n.startswith("constant."))
    assert program.parameter_count == tiny_llama().parameter_count


@pytest.mark.parametrize(("bits", "overhead"), [(16, 0.0625), (4, 0.25), (None, 1 / 32)])
def test_the_overhead_of_the_mask_is_the_papers(bits: float | None, overhead: float, calibration: str) -> None:
    """Section 6.2: one bit per weight is 6.25 % of a 16-bit and 25 % of a 4-bit model."""
    pruned = lower(once("sparsegpt", calibration).program, bits).mlp_bytes
    dense = lower(outlined(), bits).mlp_bytes
    assert pruned / dense == pytest.approx(0.5 + overhead)


def test_a_prompt_may_be_left_dense_by_the_method_that_comes_after(calibration: str) -> None:
    program = once("sparsegpt,dip{scope=decode}", calibration).program
    assert program.method.scope == "decode" and program.method.name == "sparsegpt+dip"


def test_the_two_do_not_go_together(calibration: str) -> None:
    for second in ("gptq{weights=mlp}", "int4", "int8{weights=mlp}"):
        with pytest.raises(UsageError, match="weights were pruned for good, and their kept values cannot be rounded"):
            once(f"sparsegpt,{second}", calibration)
    with pytest.raises(
        UnsupportedModel, match=r"sparsegpt found nothing to rewrite in tiny .*: it is quantised already"
    ):
        once("int4,sparsegpt", calibration)
    with pytest.raises(UnsupportedModel, match="it is pruned already"):
        once("sparsegpt,sparsegpt", calibration)


# --- Both ---

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


def test_kernels_leave_what_they_cannot_read(calibration: str) -> None:
    for pipeline, reason in (
        ("gptq{bits=3 group=32},dip", "its codes have 3 bits, and packed products take those of 4 and 8"),
        ("sparsegpt,dip", "its weight is pruned for good, and packed products take whole matrices"),
    ):
        program = once(pipeline, calibration).program
        assert [m.reason for m in Pack().run(program).mismatches] == [reason] * 6
        assert torch.equal(probe_logits(for_decoding(program, 100)), probe_logits(program))
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


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config.json of a Llama whose sizes groups of 64 divide; 16-bit weights."""
    folder = tmp_path_factory.mktemp("bare")
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 192, "dtype": "bfloat16"}
    model_config: Any = tiny_model(**sizes).config
    model_config.architectures = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(model_config.to_json_string())
    return folder / "config.json"


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
    from dipc.backends.onnx_session import OnnxSession

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


def test_unmasking_by_hand() -> None:
    matrix = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]])
    kept, bits = mask_of(matrix, torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0, 0, 0]]).bool())
    assert kept.tolist() == [1, 8, 10, 11] and bits.tolist() == [[0b10000001], [0b00000110]]
    assert unmask(kept, bits).tolist() == [[1, 0, 0, 0, 0, 0, 0, 8], [0, 10, 11, 0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="unmask: values"):
        torch.ops.dipc.unmask(torch.zeros(17, device="meta"), torch.zeros(2, 1, dtype=torch.uint8, device="meta"))


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
