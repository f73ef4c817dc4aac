"""Quantised checkpoints as models: what they compute is what their codes say, and what is wrong with one is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dipc.api import capture, compile, load, save
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile, DipcError
from dipc.frontend.pretrained import from_pretrained
from dipc.frontend.tracer import Source
from dipc.ir.program import Program
from dipc.memory.lowering import lower
from kit.checkpoints import tiny_config, tiny_tensors, write_checkpoint
from kit.quantized_layers import Layer, awq, compressed, compressed_int8, four_bit_floats, gptq, in_layers, int8_rows
from kit.tiny_models import random_ids, tiny_model

GROUP = 16
PACKED = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": GROUP}}
INT8 = {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel", "symmetric": False}}
UP = "model.layers.1.mlp.up_proj"


def nf4(layer: Layer) -> dict[str, Tensor]:
    largest = torch.rand(layer.codes.numel() // 64, generator=torch.Generator().manual_seed(layer.codes.numel()))
    return four_bit_floats(layer.codes, torch.linspace(-1, 1, 16), largest, 64, "float16")


METHODS: dict[str, tuple[Callable[[Layer], dict[str, Tensor]], dict[str, Any], dict[str, Any]]] = {
    "gptq": (gptq, {"bits": 4, "group": GROUP}, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "awq": (awq, {"bits": 4, "group": GROUP}, {"quant_method": "awq", "bits": 4, "group_size": GROUP}),
    "packed": (
        compressed,
        {"bits": 4, "group": GROUP},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": PACKED}},
    ),
    "int8": (
        compressed_int8,
        {"bits": 8, "group": None},
        {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": INT8}},
    ),
    "bitsandbytes": (
        int8_rows,
        {"bits": 8, "group": None, "symmetric": True},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ),
}  # fmt: skip


def written(folder: Path, method: str, **changes: Tensor | None) -> tuple[Path, dict[str, Layer]]:
    """The tiny model with made-up layers in a method's form; `changes` by the tensor's name."""
    pack, form, about = METHODS[method]
    tensors, layers = in_layers(tiny_tensors(), pack, **form)
    tensors = {n: t for n, t in {**tensors, **changes}.items() if t is not None}
    return write_checkpoint(folder, tensors, quantization_config=about, dtype="float16"), layers


def opened(folder: Path) -> Source:
    """The model of a folder, loaded and not traced."""
    return from_pretrained(folder, folder.name, "auto", False)


@pytest.mark.parametrize("method", METHODS)
def test_codes_stay_codes(tmp_path: Path, method: str) -> None:
    folder, layers = written(tmp_path / "m", method)
    source = opened(folder)
    assert source.codes.keys() == layers.keys() and len(layers) == 14
    assert (source.stored_bits, source.own_bits) == (16.0, {})
    for name, codes in source.codes.items():
        assert source.model.get_parameter(name).untyped_storage().nbytes() == 4  # one number, and no matrix
        assert (codes.bits, codes.shape) == (layers[name].bits, tuple(layers[name].codes.shape))
    table = source.model.get_parameter("model.embed_tokens.weight")
    assert torch.equal(table, tiny_tensors()["model.embed_tokens.weight"].half().float())


def plain_logits(layers: dict[str, Layer], ids: Tensor) -> Tensor:
    """The logits of transformers' own model with the values that the codes stand for."""
    model = tiny_model()
    values = {n: layers[n].values.float() if n in layers else t.half().float() for n, t in tiny_tensors().items()}
    model.load_state_dict(values)
    with torch.no_grad():
        logits: Tensor = model(ids[None]).logits[0]
    return logits


def logits_of(program: Program, ids: Tensor) -> Tensor:
    return EagerSession(program).step(ids).logits


def test_a_gptq_model_runs_compiles_and_is_priced_by_its_codes(tmp_path: Path) -> None:
    folder, layers = written(tmp_path / "m", "gptq")
    program, ids = capture(folder), random_ids(12)
    assert torch.allclose(logits_of(program, ids), plain_logits(layers, ids), atol=1e-5)
    compiled = compile(program, "dip{density=1.0}")
    assert torch.allclose(logits_of(compiled.program, ids), plain_logits(layers, ids), atol=1e-5)
    traffic, sizes = lower(compiled.program), {n: t.numel() for n, t in tiny_tensors().items()}
    assert traffic.mlp_bytes == sum(size for n, size in sizes.items() if ".mlp." in n) / 2
    coded = sum(size for n, size in sizes.items() if n in layers)
    tables = 3 * coded / GROUP  # of 16 inputs a scale of 16 bits and a zero point of 8
    assert traffic.total_bytes == coded / 2 + tables + 2 * (sum(sizes.values()) - coded)
    save(compiled, tmp_path / "out")
    assert torch.equal(logits_of(load(tmp_path / "out"), ids), logits_of(compiled.program, ids))


def test_what_has_no_codes_here_is_widened_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors, layers = in_layers(tiny_tensors(), nf4, bits=4, group=64)
    about = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    source = opened(write_checkpoint(tmp_path / "m", tensors, quantization_config=about, dtype="float16"))
    assert not source.codes
    places = nf4(layers[f"{UP}.weight"])["weight.absmax"]
    wide = torch.linspace(-1, 1, 16)[layers[f"{UP}.weight"].codes].reshape(-1, 64) * places[:, None]
    assert torch.equal(source.model.get_parameter(f"{UP}.weight"), wide.half().float().view(48, 32))
    assert 4.5 < source.stored_bits < 10  # the tiny layers' tables and states count too
    assert [r.message for r in caplog.records] == ["m: 14 matrices that have no such codes here: bitsandbytes, widened"]
    assert caplog.records[0].levelno == logging.WARNING + 1


def test_in_parts_and_with_what_is_not_used(tmp_path: Path) -> None:
    """Shards, an empty bias that old writers store, and scales of activations, which are not rounded."""
    unused = {f"{UP}.input_scale": torch.ones(1), "model.layers.0.self_attn.k_scale": torch.ones(1)}
    folder, layers = written(tmp_path / "m", "packed", **unused, **{f"{UP}.bias": torch.zeros(48).half()})
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(placed.values()):
        save_file({n: tensors[n].clone() for n, f in placed.items() if f == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert opened(folder).codes.keys() == layers.keys()


def test_eos_ids_come_along(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "m", "awq")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    model: Any = opened(folder).model
    assert model.generation_config.eos_token_id == [5, 7]


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("gptq", {f"{UP}.scales": None}, f"m: {UP} (gptq): has no scales"),
        ("gptq", {f"{UP}.qweight": torch.zeros(4, 40).int()}, "qweight is [4, 40] and should be [4, 48]"),
        ("gptq", {f"{UP}.scales": torch.full((2, 48), torch.inf).half()}, "its scales hold NaN or infinity"),
        ("gptq", {"model.norm.weight": None}, "lacks model.norm.weight"),
        ("gptq", {"model.layers.2.mlp.up_proj.qweight": torch.zeros(4, 48).int()}, "holds model.layers.2.mlp.up_proj"),
        ("gptq", {f"{UP}.bias": torch.ones(48).half()}, f"holds {UP}.bias, and the model"),
        ("packed", {f"{UP}.weight_scale": torch.ones(48, 5).half()}, "5 groups, which 32 inputs do not fill"),
        ("bitsandbytes", {f"{UP}.SCB": torch.ones(3)}, "SCB is [3] and should be [48]"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_wrong(
    tmp_path: Path, method: str, changes: dict[str, Tensor | None], expected: str
) -> None:
    folder, _ = written(tmp_path / "m", method, **changes)
    with pytest.raises(DipcError) as caught:
        opened(folder)
    assert type(caught.value) is BadFile and expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_that_the_layers_do_not_have(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "m", "gptq")
    (folder / "config.json").write_text(
        json.dumps({**json.loads((folder / "config.json").read_text()), "vocab_size": 10**10})
    )
    with pytest.raises(BadFile, match=r"config\.json describes"):
        opened(folder)
    assert tiny_config()["vocab_size"] == 96
