"""A model's folder with one file damaged: refused in one line that is no internal error, or read as it was.

A short, fixed run of random damage. Values that a damage puts into weights or a config are what they are; that
tokenizers, settings and names are not taken for others is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipc.errors import BadFile, DipcError
from dipc.frontend.bare_config import from_config
from dipc.frontend.loading import check_finite
from dipc.frontend.pretrained import from_pretrained
from kit.checkpoints import LFS_POINTER, tiny_tensors, write_checkpoint

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**9,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
    "\ud800",
)
RUN = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder."""
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "m", tokenizer=True)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3], "max_length": 20}')
    return folder


def read_or_refused(folder: Path, file: str) -> str | None:
    """The line in which a folder is refused; None where it is read."""
    try:
        source = from_pretrained(folder, "m", "auto", False)
        check_finite("m", source.model)
    except DipcError as error:
        return checked(error)
    if file not in ("config.json", "model.safetensors"):
        assert all(torch.equal(source.model.state_dict()[n], t) for n, t in tiny_tensors().items())
    return None


def checked(error: DipcError) -> str:
    """Its line, which is one, with the exit code of what is wrong with the input."""
    assert error.exit_code in (2, 3, 5, 6) and "\n" not in str(error)
    return str(error)


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Flip a few bytes, cut the end off, or take a piece out."""
    kind = data.draw(st.sampled_from(["flip", "cut", "piece"]))
    place = data.draw(st.integers(0, min(len(content), 3000) - 1))  # of weights, the header is what can be damaged
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
    return content[:place] + (b"" if kind == "cut" else content[place + data.draw(st.integers(1, 50)) :])


def with_odd_value(data: st.DataObject, content: bytes) -> bytes:
    """Put a value of another kind in place of one, at any depth."""
    whole = json.loads(content)
    at = whole
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(st.sampled_from(ODD))
    return json.dumps(whole).encode()


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@RUN
def test_bytes_that_are_damaged(sound: Path, file: str, data: st.DataObject) -> None:
    content = (sound / file).read_bytes()
    try:
        (sound / file).write_bytes(damaged(data, content))
        read_or_refused(sound, file)
    finally:
        (sound / file).write_bytes(content)


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".json")])
@given(data=st.data())
@RUN
def test_values_of_another_kind(sound: Path, file: str, data: st.DataObject) -> None:
    content = (sound / file).read_bytes()
    try:
        (sound / file).write_bytes(with_odd_value(data, content))
        read_or_refused(sound, file)
        if file == "config.json":
            try:
                from_config(sound / file)
            except DipcError as error:
                checked(error)
    finally:
        (sound / file).write_bytes(content)


def enormous(path: Path) -> None:
    """Make a file of a tebibyte that takes no place."""
    path.touch()
    os.truncate(path, 1 << 40)


IN_PLACE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (Path.touch, "is empty"),
    "pointer": (lambda path: path.write_bytes(LFS_POINTER), "a Git LFS pointer, not the file itself"),
    "folder": (Path.mkdir, "it is a folder, not a file"),
    "pipe": (os.mkfifo, "it is a pipe or a device, not a file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which is not there"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
    "enormous": (enormous, ""),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_is_in_a_files_place(tmp_path: Path, file: str, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "m", tokenizer=True)
    (folder / file).unlink(missing_ok=True)
    put, expected = IN_PLACE[kind]
    put(folder / file)
    with pytest.raises(BadFile) as caught:
        from_pretrained(folder, "m", "auto", False)
    assert str(caught.value).startswith(f"{folder / file}: ") and expected in str(caught.value)


def test_a_link_to_a_file_is_the_file(tmp_path: Path) -> None:
    """The hub's cache is made of links."""
    folder = write_checkpoint(tmp_path / "m", tokenizer=True)
    (tmp_path / "blobs").mkdir()
    for file in list(folder.iterdir()):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    assert from_pretrained(folder, "m", "auto", False).tokenizer is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_may_not_be_read(tmp_path: Path, file: str) -> None:
    folder = write_checkpoint(tmp_path / "m", tokenizer=True)
    (folder / file).touch()
    (folder / file).chmod(0)
    with pytest.raises(BadFile, match="cannot be read: Permission denied"):
        from_pretrained(folder, "m", "auto", False)
