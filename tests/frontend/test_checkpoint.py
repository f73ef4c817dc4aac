"""Checkpoints that are not the model's: what is missing, too many or of another shape is named; nothing else is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dipc.api import capture
from dipc.errors import BadFile, DipcError
from dipc.frontend.checkpoint import stored_tensors
from dipc.frontend.pretrained import from_pretrained
from dipc.frontend.tracer import Source
from kit.checkpoints import LFS_POINTER, tiny_tensors, write_checkpoint
from kit.tiny_models import tiny_model

UP = "model.layers.1.mlp.up_proj.weight"


def opened(folder: Path) -> Source:
    """The model of a folder, loaded and not traced."""
    return from_pretrained(folder, folder.name, "auto", False)


def refused(folder: Path) -> str:
    """The one line in which a folder is refused as damaged."""
    with pytest.raises(DipcError) as caught:
        opened(folder)
    assert type(caught.value) is BadFile and "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_another_wrapper(tmp_path: Path) -> None:
    text = refused(write_checkpoint(tmp_path / "m", {f"module.{n}": t for n, t in tiny_tensors().items()}))
    assert "lacks lm_head.weight (and 20 more); it holds module.lm_head.weight" in text


@pytest.mark.parametrize(
    ("changes", "config", "expected"),
    [
        ({UP: None}, {}, f"lacks {UP}"),
        ({"foo.weight": torch.ones(3)}, {}, "holds foo.weight, and the model"),
        ({UP: torch.ones(40, 32)}, {}, f"{UP} is [40, 32] in the checkpoint and [48, 32] by config.json"),
        ({UP: torch.ones(48 * 32)}, {}, f"{UP} is [1536] in the checkpoint and [48, 32] by config.json"),
        ({}, {"num_hidden_layers": 3}, "lacks model.layers.2.input_layernorm.weight (and 8 more)"),
        ({}, {"num_hidden_layers": 1}, "holds model.layers.1.input_layernorm.weight (and 8 more)"),
        (
            {},
            {"vocab_size": 90},
            "lm_head.weight is [96, 32] in the checkpoint and [90, 32] by config.json (and 1 more)",
        ),
        (
            {},
            {"vocab_size": 10**12},
            "config.json describes 64,000,000,015,520 weights and the checkpoint holds 21,664",
        ),
        ({}, {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000; at most 10,000"),
        ({}, {"intermediate_size": 10**30}, "cannot be loaded"),
        ({}, {"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias (and 7 more)"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Any], config: dict[str, Any], expected: str
) -> None:
    tensors = {n: t for n, t in {**tiny_tensors(), **changes}.items() if t is not None}
    assert expected in refused(write_checkpoint(tmp_path / "m", tensors, **config))


def test_a_tied_head_may_be_absent_and_old_buffers_present(tmp_path: Path) -> None:
    plain = {n: t for n, t in tiny_tensors().items() if n != "lm_head.weight"}
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "v_head.summary.weight": torch.ones(1, 32)}
    source = opened(write_checkpoint(tmp_path / "tied", plain | old, tie_word_embeddings=True))
    assert torch.equal(source.model.get_parameter("lm_head.weight"), tiny_tensors()["model.embed_tokens.weight"])
    assert "lacks lm_head.weight" in refused(write_checkpoint(tmp_path / "untied", plain))


def test_a_model_without_its_head_is_named(tmp_path: Path) -> None:
    """A base model that was saved by itself: its names lack the prefix, which transformers mends, and the head."""
    body = {n.removeprefix("model."): t for n, t in tiny_tensors().items() if n != "lm_head.weight"}
    assert refused(write_checkpoint(tmp_path / "m", body)).endswith("lacks lm_head.weight")


def shard(folder: Path) -> Path:
    """Write a checkpoint in two files with an index."""
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tiny_tensors())
    placed: dict[str, str] = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        save_file({n: tiny_tensors()[n] for n in part}, folder / f"part-{number}.safetensors", {"format": "pt"})
        placed |= dict.fromkeys(part, f"part-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def test_a_checkpoint_in_parts(tmp_path: Path) -> None:
    folder = shard(tmp_path / "m")
    assert torch.equal(opened(folder).model.get_parameter(UP), tiny_tensors()[UP])
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    for wrong, expected in [
        ({**placed, "x.y": "part-1.safetensors"}, "part-1.safetensors: has no x.y, which model.safetensors.index.json"),
        ({**placed, "x.y": "../z.safetensors"}, "'../z.safetensors' is outside of the model's folder"),
        ({**placed, "x.y": 3}, "weight_map must say which file"),
        ([], "weight_map must say which file"),
    ]:
        index.write_text(json.dumps({"weight_map": wrong}))
        assert expected in refused(folder)
    index.write_text(json.dumps({"weight_map": placed}))
    (folder / "part-2.safetensors").unlink()
    assert f"part-2.safetensors: is missing; {index.name} says that it holds {sorted(tiny_tensors())[10]}" in refused(
        folder
    )
    index.write_bytes(LFS_POINTER)
    assert "a Git LFS pointer, not the file itself; run `git lfs pull`" in refused(folder)


def test_a_pickled_checkpoint_in_parts(tmp_path: Path) -> None:
    folder = shard(tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    placed = {n: f.replace("safetensors", "bin") for n, f in json.loads(index.read_text())["weight_map"].items()}
    index.unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    for file in set(placed.values()):
        (folder / file.replace("bin", "safetensors")).unlink()
        torch.save({n: tiny_tensors()[n].bfloat16() for n, f in placed.items() if f == file}, folder / file)
    source = opened(folder)
    assert source.stored_bits == 16
    assert torch.equal(source.model.get_parameter(UP), tiny_tensors()[UP].bfloat16())


class Code:
    """What a pickle may run when it is read."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.ran),)


def test_a_pickled_checkpoint(tmp_path: Path) -> None:
    folder, ran = write_checkpoint(tmp_path / "m"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    for zipped in (True, False):
        torch.save({n: t.half() for n, t in tiny_tensors().items()}, file, _use_new_zipfile_serialization=zipped)
        source = opened(folder)
        assert source.stored_bits == 16 and torch.equal(
            source.model.get_parameter(UP), tiny_tensors()[UP].half().float()
        )
    file.write_bytes(file.read_bytes()[:3000])
    assert "pytorch_model.bin: damaged" in refused(folder)
    torch.save({"a": Code(ran)}, file)
    assert "holds more than tensors, which is not unpickled" in refused(folder) and not ran.exists()
    assert "if you trust it, load it with transformers and save it with save_pretrained" in refused(folder)
    torch.save({"state_dict": tiny_tensors()}, file)
    assert "'state_dict' is no tensor" in refused(folder)
    file.write_bytes(LFS_POINTER)
    assert "a Git LFS pointer" in refused(folder)
    file.unlink()
    assert "no weights beside config.json: none of model.safetensors," in refused(folder)


def test_headers_say_what_is_stored_without_loading(tmp_path: Path) -> None:
    held = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4).to(torch.float8_e4m3fn)}
    save_file(held | {"c": torch.zeros(1, dtype=torch.bool)}, tmp_path / "model.safetensors")
    found = stored_tensors("x", lambda name: path if (path := tmp_path / name).exists() else None)
    assert {n: (t.dtype, t.shape, t.bits, t.is_float) for n, t in found.items()} == {
        "a": ("bfloat16", (2, 3), 16.0, True),
        "b": ("float8_e4m3", (4,), 8.0, True),
        "c": ("bool", (1,), 8.0, False),
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number(tmp_path: Path, value: float) -> None:
    wrong = tiny_tensors()[UP].clone()
    wrong[3, :2] = value
    folder = write_checkpoint(tmp_path / "m", {**tiny_tensors(), UP: wrong})
    with pytest.raises(BadFile, match=rf"m: {UP} holds NaN or infinity: 2 of its 1,536 values in float32"):
        capture(folder)


def test_a_weight_in_memory_that_is_no_number() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[5] = float("nan")
    with pytest.raises(BadFile, match=r"LlamaForCausalLM: model.norm.weight holds NaN or infinity: 1 of its 32"):
        capture(model)


def test_a_weight_that_overflows_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", {**tiny_tensors(), UP: tiny_tensors()[UP] + 1e5})
    with pytest.raises(BadFile, match=f"{UP} holds NaN or infinity: 1,536 of its 1,536 values in float16"):
        capture(folder, dtype="float16")


def test_an_adapter_beside_a_model_is_not_taken_for_a_part_of_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DipcError, match=r"holds an adapter .* add it with the pass fuse-lora") as caught:
        opened(folder)
    assert caught.value.exit_code == 2
