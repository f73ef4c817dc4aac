"""Weights in an artifact: as narrow as their checkpoint has them, and loaded as they were."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dipc.api import compile, load, save
from dipc.artifact import widened_weights
from dipc.artifact.weights_file import DTYPES, write_weights
from dipc.artifact.widened_weights import widen
from dipc.errors import BadFile
from dipc.ir.program import Program
from kit.tiny_models import tiny_llama


def from_half(dtype: torch.dtype = torch.float16) -> Program:
    """The tiny model as one is captured whose checkpoint is in 16 bits."""
    program = tiny_llama()
    weights = {name: weight.to(dtype).float() for name, weight in program.weights.items()}
    return program.replace(weights=weights, info=dataclasses.replace(program.info, weight_bits=16.0))


def dtypes(folder: Path) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in load_file(folder / "weights.safetensors").items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_come_back_from_half_the_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    program = compile(from_half(dtype), "dip").program
    save(program, tmp_path / "out")
    narrow = {n for n, d in dtypes(tmp_path / "out").items() if d != torch.float32}
    assert {n for n in program.weights if "constant" not in n} <= narrow
    after = load(tmp_path / "out")
    assert after.info == program.info and after.weights.keys() == program.weights.keys()
    for name, weight in program.weights.items():
        assert after.weights[name].dtype == torch.float32 and torch.equal(after.weights[name], weight)
    assert after.dense is not None and all(after.dense.weights[n] is after.weights[n] for n in after.dense.weights)
    save(after, tmp_path / "again")
    kept = [(tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("out", "again")]
    assert kept[0] == kept[1]


def test_what_was_changed_stays_wide_and_what_never_was_narrow_too(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    program = from_half()
    changed = program.replace(weights={**program.weights, name: program.weights[name] + 1e-6})
    save(changed, tmp_path / "changed")
    found = dtypes(tmp_path / "changed")
    assert found[name] == torch.float32 and found[name.replace("up", "gate")] == torch.float16
    save(tiny_llama(), tmp_path / "wide")
    assert set(dtypes(tmp_path / "wide").values()) == {torch.float32}


def test_only_what_needs_it_asks_for_a_newer_dipc(tmp_path: Path) -> None:
    for program, schema in ((from_half(), 2), (tiny_llama(), 1)):
        save(program, tmp_path / str(schema))
        assert json.loads((tmp_path / str(schema) / "dipc.json").read_text())["schema"] == schema


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{kind}-{i}": torch.randint(0, 2, (3, 5 + i), generator=generator).to(DTYPES[kind])
               for kind in DTYPES for i in (1, 0)}  # fmt: skip
    tensors |= {"a": torch.tensor(2.5), "n\u00e4h": torch.empty(0, 4), "turned": torch.arange(12.0).view(3, 4).T}
    write_weights(tmp_path / "ours", tensors, {name: tensor.dtype for name, tensor in tensors.items()})
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    half = {"a": torch.float16, "turned": torch.bfloat16}
    write_weights(tmp_path / "narrow", {n: tensors[n] for n in half}, half)
    found = load_file(tmp_path / "narrow")
    assert all(found[n].dtype == d and torch.equal(found[n].float(), tensors[n]) for n, d in half.items())


NARROW: dict[str, Tensor] = {"a": torch.arange(6.0).view(2, 3).half(), "none": torch.empty(0, 2).half(),
                             "b": torch.tensor(0.5).bfloat16()}  # fmt: skip


def test_weights_are_widened_in_memory_or_in_a_file_that_nobody_sees(tmp_path: Path) -> None:
    for most in (None, 28, 27, 0):
        found = widen(NARROW, tmp_path, most_bytes=most)
        assert found.keys() == NARROW.keys()
        assert all(found[n].dtype == torch.float32 and torch.equal(found[n], t.float()) for n, t in NARROW.items())
        assert found["a"].is_contiguous() and found["a"].shape == (2, 3)
    assert not list(tmp_path.iterdir())
    assert widen({}, tmp_path, most_bytes=0) == {}


def test_no_room_anywhere_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(widened_weights, "_reserve", full)
    with pytest.raises(BadFile, match=r"take 28 B so, for which there is no room .*; set TMPDIR"):
        widen(NARROW, tmp_path, most_bytes=0)


def test_a_file_in_a_dtype_that_is_no_narrower_form_is_refused(tmp_path: Path) -> None:
    save(from_half(), tmp_path / "out")
    form = json.loads((tmp_path / "out" / "program.json").read_text())["weights"]
    assert {w["dtype"] for w in form.values()} == {"float32"}  # what is computed in, whatever the file has
    weights = tmp_path / "out" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadFile, match=r"weights\.safetensors: was changed"):
        load(tmp_path / "out")
