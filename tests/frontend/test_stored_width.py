"""What a weight takes where it is stored: read from the files, not from the config; each at its own width."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dipc.api import capture, compile, load, save
from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.bare_config import from_config
from dipc.frontend.pretrained import from_pretrained
from dipc.frontend.tracer import Source
from dipc.memory.lowering import lower, mean_bits
from kit.checkpoints import tiny_config, tiny_tensors, write_checkpoint
from kit.tiny_models import tiny_model

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def opened(folder: Path) -> Source:
    """The model of a folder, loaded and not traced."""
    return from_pretrained(folder, folder.name, "auto", False)


def cast(dtype: torch.dtype, but: str = "-", other: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tiny model's weights in a dtype, those whose name has `but` in it in another."""
    return {n: t.to(other if but in n else dtype) for n, t in tiny_tensors().items()}


@pytest.mark.parametrize("said", [None, "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("stored", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float8_e5m2, torch.float32),
    ],
)
def test_the_files_say_the_width_and_not_the_config(
    tmp_path: Path, stored: torch.dtype, computed: torch.dtype, said: str | None
) -> None:
    source = opened(write_checkpoint(tmp_path / "m", cast(stored), dtype=said))
    if stored == torch.float8_e5m2 and said != "float32":
        computed = torch.bfloat16  # holds every value of FP8
    assert (source.stored_bits, source.own_bits) == (8.0 * stored.itemsize, {})
    weight = source.model.get_parameter(HEAD)
    assert weight.dtype == computed and torch.equal(weight, tiny_tensors()[HEAD].to(stored).to(computed))


def test_each_weight_counts_as_it_is_stored(tmp_path: Path) -> None:
    program = capture(write_checkpoint(tmp_path / "m", cast(torch.float16, but="norm")))
    norms = {n: 32.0 for n in tiny_tensors() if "norm" in n}
    assert program.info.weight_bits == 16 and program.info.own_bits == norms and len(norms) == 5
    stored_bytes = sum(t.numel() * (4 if "norm" in n else 2) for n, t in tiny_tensors().items())
    assert lower(program).total_bytes == stored_bytes
    assert mean_bits(program) == 8 * stored_bytes / program.parameter_count
    assert lower(program, 4).total_bytes == program.parameter_count / 2
    sparse = compile(program, "dip")
    assert [s.unit_bytes for s in lower(sparse.program).sites][:1] == [2 * 48 * 2]  # gate and up, a column each
    save(sparse, tmp_path / "out")
    assert load(tmp_path / "out").info == program.info


def test_a_module_in_memory_counts_as_it_is_held() -> None:
    model = tiny_model().to(torch.bfloat16)
    model.get_submodule("model.embed_tokens").float()
    info = capture(model).info
    assert info.weight_bits == 16 and info.own_bits == {TABLE: 32.0}


def in_fp8(block: int) -> dict[str, Tensor]:
    """The tiny model's linear layers in FP8 with a scale per block, and all else in bfloat16."""
    made: dict[str, Tensor] = {}
    for name, weight in tiny_tensors().items():
        if "proj" not in name:
            made[name] = weight.bfloat16()
            continue
        rows, columns = (math.ceil(size / block) for size in weight.shape)
        tiles = weight.view(rows, -1, columns, weight.shape[1] // columns)
        scale = tiles.abs().amax((1, 3), keepdim=True) / 448
        made[name] = (tiles / scale).view(weight.shape).to(torch.float8_e4m3fn)
        made[f"{name}_scale_inv"] = scale.view(rows, columns)
    return made


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def test_a_checkpoint_in_fp8_is_widened_and_priced_by_its_bytes(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate")
    tensors = in_fp8(16)
    source = opened(write_checkpoint(tmp_path / "m", tensors, quantization_config=FP8, dtype="bfloat16"))
    assert source.stored_bits == 8 + 32 / 256
    assert source.own_bits == {n: 16.0 for n, t in tensors.items() if t.dtype == torch.bfloat16}
    name = "model.layers.1.mlp.up_proj.weight"
    scale = tensors[f"{name}_scale_inv"].repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert torch.equal(source.model.get_parameter(name), (tensors[name].float() * scale).bfloat16())


@pytest.mark.parametrize(
    ("block", "change", "error", "expected"),
    [
        (16, None, BadFile, "is in FP8 and has no scales"),
        (16, torch.ones(2, 2), BadFile, "[48, 32] needs scales [3, 2], and has [2, 2]"),
        (20, torch.ones(3, 2), UnsupportedModel, "blocks of [20, 20] that do not divide it"),
    ],
)
def test_fp8_that_would_be_read_wrong(
    tmp_path: Path, block: int, change: Tensor | None, error: type[Exception], expected: str
) -> None:
    pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate")
    name = "model.layers.0.mlp.gate_proj.weight"
    tensors = {n: t for n, t in {**in_fp8(16), f"{name}_scale_inv": change}.items() if t is not None}
    quantization = FP8 | {"weight_block_size": [block, block]}
    if block == 20:  # so that this is the first that is looked at
        tensors = {n: t for n, t in tensors.items() if name in n} | cast(
            torch.bfloat16, but=name, other=tensors[name].dtype
        )
    with pytest.raises(error) as caught:
        opened(write_checkpoint(tmp_path / "m", tensors, quantization_config=quantization))
    assert expected in str(caught.value)


QUANTISED: list[tuple[str, dict[str, Any], float]] = [
    ("bitsandbytes", {"load_in_4bit": True}, 4.5),
    ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4 + 8 / 64 + 32 / 64 / 256),
    ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
    ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
    ("gptq", {"quant_method": "gptq", "bits": 3, "group_size": -1}, 3),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 64}, 4 + 20 / 64),
    ("fp8", {"quant_method": "fp8", "weight_block_size": [16, 16]}, 8 + 32 / 256),
    (
        "compressed-tensors",
        {
            "quant_method": "compressed-tensors",
            "ignore": ["lm_head"],
            "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}},
        },
        4.5,
    ),
]


def bare(folder: Path, **config: Any) -> Path:
    """Write a config.json by itself."""
    file = folder / "tiny.json"
    file.write_text(json.dumps(tiny_config() | config))
    return file


@pytest.mark.parametrize(("method", "quantization", "bits"), QUANTISED)
def test_a_config_of_quantised_weights_is_priced_so_and_says_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, quantization: dict[str, Any], bits: float
) -> None:
    file = bare(tmp_path, quantization_config=quantization, dtype="bfloat16")
    source = from_config(file)
    assert source.stored_bits == bits
    assert source.own_bits == {n: 16.0 for n in tiny_tensors() if "proj" not in n}
    said = f"{file}: priced by its quantization_config: {method}, linear layers {bits:.4g} bits a weight"
    assert caplog.record_tuples == [("dipc.frontend", logging.WARNING + 1, said)]


@pytest.mark.parametrize("method", ["mxfp4", "torchao", "of_tomorrow"])
@pytest.mark.parametrize("weights", [True, False])
def test_what_cannot_be_priced_or_computed_is_refused_by_its_name(tmp_path: Path, method: str, weights: bool) -> None:
    quantization = {"quant_method": method}
    write = write_checkpoint if weights else bare
    where = write(tmp_path, quantization_config=quantization)
    with pytest.raises(UnsupportedModel, match=method):
        (opened if weights else from_config)(where)


@pytest.mark.parametrize("quantization", [q for _, q, _ in QUANTISED if q.get("quant_method") != "fp8"])
def test_quantised_weights_are_not_computed_wrong(tmp_path: Path, quantization: dict[str, Any]) -> None:
    """Plain weights, which the config calls quantised."""
    with pytest.raises(
        (BadFile, UnsupportedModel), match=r"quantised with .*(no layer is stored so|is not read; give)"
    ):
        opened(write_checkpoint(tmp_path / "m", quantization_config=quantization))


@pytest.mark.parametrize(
    "quantization",
    [
        {},
        "text",
        [1],
        {"quant_method": "gptq"},
        {"quant_method": "gptq", "bits": "x"},
        {"quant_method": "gptq", "bits": -4},
        {"quant_method": "gptq", "bits": 4, "modules_to_not_convert": ["("]},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "compressed-tensors", "config_groups": [3]},
        {"quant_method": "fp8", "weight_block_size": [0]},
    ],
)
def test_a_config_that_says_no_width(tmp_path: Path, quantization: Any) -> None:
    with pytest.raises((UnsupportedModel, BadFile)):
        from_config(bare(tmp_path, quantization_config=quantization))
