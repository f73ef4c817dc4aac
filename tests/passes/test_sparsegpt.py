"""`sparsegpt`: what it keeps, on which inputs it solves, and the bytes of kept values and mask bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dipc.calibration.file import Calibration
from dipc.errors import UnsupportedModel, UsageError
from dipc.ir.program import Program
from dipc.memory.lowering import lower, program_density
from dipc.ops.unmask import mask_of
from dipc.ops.unmask import reference as unmask
from dipc.pipeline.numeric_check import probe_logits
from kit.static_baselines import WINDOWS, compiled, once, squared
from kit.tiny_models import outlined, tiny_llama


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


@pytest.mark.parametrize(("density", "after"), [(0.5, "dip"), (0.75, "dip{density=0.5}"), (0.5, "dip-ca{density=0.5}")])
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


def test_unmasking_by_hand() -> None:
    matrix = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]])
    kept, bits = mask_of(matrix, torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0, 0, 0]]).bool())
    assert kept.tolist() == [1, 8, 10, 11] and bits.tolist() == [[0b10000001], [0b00000110]]
    assert unmask(kept, bits).tolist() == [[1, 0, 0, 0, 0, 0, 0, 8], [0, 10, 11, 0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="unmask: values"):
        torch.ops.dipc.unmask(torch.zeros(17, device="meta"), torch.zeros(2, 1, dtype=torch.uint8, device="meta"))
