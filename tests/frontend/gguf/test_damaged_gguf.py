"""GGUF files that are not what they should be: one clear line each, whatever was done to them."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipc.cli import main
from dipc.errors import BadFile, DipcError, MissingDependency, UnsupportedModel, UsageError
from dipc.frontend.gguf.container import read_gguf
from dipc.frontend.gguf.model import from_gguf
from dipc.frontend.hugging_face import find_model
from kit.damage import damaged
from kit.gguf_files import gguf, gguf_tensors, write_gguf
from kit.tiny_models import tiny_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    return write_gguf(folder / "m.gguf", tiny_model(vocab_size=258), tokenizer=True)


def refusal(path: Path) -> DipcError:
    with pytest.raises(DipcError) as caught:
        from_gguf(path, "m", "auto")
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return caught.value


def changed(sound: Path, tmp_path: Path, change: Callable[[bytearray], None]) -> Path:
    content = bytearray(sound.read_bytes())
    change(content)
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    return path


def test_a_truncated_file(sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    for length in (0, 3, 23, 24, 60, 400, len(content) // 8, len(content) // 2, len(content) - 1):
        path = tmp_path / "m.gguf"
        path.write_bytes(content[:length])
        error = refusal(path)
        assert isinstance(error, BadFile) and "truncated" in str(error), length


@pytest.mark.parametrize(
    ("place", "content", "kind", "says"),
    [
        (0, b"GGML", BadFile, "no GGUF file: it does not begin with GGUF"),
        (4, struct.pack("<I", 1), UnsupportedModel, "is GGUF version 1; versions 2 and 3 are read"),
        (4, struct.pack(">I", 3), UnsupportedModel, "is big-endian, which is not read; convert it with"),
        (8, struct.pack("<Q", 2**62), BadFile, "truncated or damaged"),
        (16, struct.pack("<Q", 2**62), BadFile, ""),
    ],
)
def test_a_header_that_says_something_else(
    place: int, content: bytes, kind: type[DipcError], says: str, sound: Path, tmp_path: Path
) -> None:
    def change(file: bytearray) -> None:
        file[place : place + len(content)] = content

    error = refusal(changed(sound, tmp_path, change))
    assert isinstance(error, kind) and says in str(error)


def test_a_big_endian_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_model(), endianess=gguf.GGUFEndian.BIG)
    assert "big-endian" in str(refusal(path))


@pytest.mark.parametrize(
    ("architecture", "more", "kind", "says"),
    [
        ("clip", {}, UnsupportedModel, "is the vision part of a model"),
        ("nonesuch", {}, UnsupportedModel, "transformers reads no GGUF file of a nonesuch"),
        ("llama", {"general.type": "mmproj"}, UnsupportedModel, "is the vision part of a model"),
    ],
)
def test_another_kind_of_model(
    architecture: str, more: dict[str, Any], kind: type[DipcError], says: str, tmp_path: Path
) -> None:
    error = refusal(write_gguf(tmp_path / "m.gguf", tiny_model(), architecture=architecture, more=more))
    assert isinstance(error, kind) and says in str(error)


def test_weights_that_are_missing_too_many_or_of_another_shape(tmp_path: Path) -> None:
    tensors = gguf_tensors(tiny_model())
    without = {name: values for name, values in tensors.items() if name != "blk.1.ffn_up.weight"}
    for given, says in (
        (without, "the checkpoint lacks model.layers.1.mlp.up_proj.weight"),
        (tensors | {"blk.9.ffn_up.weight": tensors["blk.1.ffn_up.weight"]}, "holds blk.9.ffn_up.weight"),
        (tensors | {"blk.1.ffn_up.weight": np.ones((48, 16), np.float32)}, "up_proj.weight is [48, 16]"),
    ):
        error = refusal(write_gguf(tmp_path / "m.gguf", tiny_model(), tensors=given))
        assert isinstance(error, BadFile) and says in str(error)


def test_a_storage_type_of_the_future(sound: Path, tmp_path: Path) -> None:
    def change(file: bytearray) -> None:
        name = b"blk.0.ffn_up.weight"
        place = file.index(name) + len(name) + 4 + 16  # number of dims, and two of them
        file[place : place + 4] = struct.pack("<I", 99)

    error = refusal(changed(sound, tmp_path, change))
    assert isinstance(error, UnsupportedModel) and "blk.0.ffn_up.weight is stored as ggml type 99" in str(error)


def test_random_damage_is_refused_in_one_line_or_read(sound: Path, tmp_path: Path) -> None:
    content, chance = sound.read_bytes(), random.Random(0)
    header = content.index(b"blk.1.ffn_down.weight") + 60
    path, lines = tmp_path / "m.gguf", []
    for _ in range(60):
        path.write_bytes(damaged(content[:header], chance) + content[header:])
        try:
            read_gguf(path)
        except DipcError as error:
            lines.append(str(error))
    assert len(lines) > 20
    assert all("\n" not in line and str(path) in line for line in lines)


def test_a_folder_with_none_or_several(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"neither a config\.json nor a GGUF file"):
        find_model(str(tmp_path))
    shutil.copy(sound, tmp_path / "a.gguf")
    shutil.copy(sound, tmp_path / "mmproj-a.gguf")
    assert find_model(str(tmp_path)) == tmp_path / "a.gguf"
    shutil.copy(sound, tmp_path / "b.gguf")
    with pytest.raises(UsageError, match=r"holds several models, a\.gguf, b\.gguf; give one of the files"):
        find_model(str(tmp_path))


def test_without_the_package(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.frontend.gguf.model.importlib.util.find_spec", lambda _: None)
    error = refusal(sound)
    assert isinstance(error, MissingDependency) and "pip install 'dipc[gguf]'" in str(error)


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(8))
    assert main(["inspect", str(path)]) == 5
    assert capsys.readouterr().err.strip().splitlines() == [
        f"dipc: {path}: no GGUF file, or truncated: it has 12 bytes"
    ]
