"""Tokenizers: absent is absent, whatever a family makes up; a damaged one is refused with the file that is at fault."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from dipc.errors import BadFile, DipcError, MissingDependency
from dipc.frontend.pretrained import from_pretrained
from dipc.frontend.tokenizer import load_tokenizer
from kit.checkpoints import LFS_POINTER, write_checkpoint
from kit.tiny_models import tiny_model


def tokenizer(folder: Path) -> object:
    """The tokenizer of a folder."""
    return load_tokenizer(folder, "m", lambda file: p if (p := folder / file).exists() else None, False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its tokenizer."""
    return write_checkpoint(tmp_path / "m", tokenizer=True)


def test_a_sound_one(folder: Path) -> None:
    found = from_pretrained(folder, "m", "auto", False).tokenizer
    assert found.decode(found("a bridge")["input_ids"]) == "a bridge"


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2"])
def test_without_files_there_is_none(tmp_path: Path, family: str) -> None:
    """transformers gives some families one that knows a single token."""
    tiny_model(family).config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    assert tokenizer(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizer(tmp_path) is None


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (LFS_POINTER, "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"),
        (b'{"a": ', "damaged: Expecting value"),
        (b"[]", "damaged: it holds no JSON object"),
        (b"[" * 100_000, "damaged: maximum recursion depth"),
        (b"\xff\xfe{", "damaged: 'utf-8' codec can't decode"),
    ],
)
def test_a_damaged_file(folder: Path, file: str, content: bytes, expected: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(BadFile) as caught:
        tokenizer(folder)
    assert str(caught.value).startswith(f"{folder / file}: {expected}") and "\n" not in str(caught.value)


def test_a_vocabulary_that_is_none(folder: Path) -> None:
    content: dict[str, object] = json.loads((folder / "tokenizer.json").read_text())
    for damaged in ({}, content | {"model": {"type": "BPE", "vocab": 3}}, content | {"model": None}):
        (folder / "tokenizer.json").write_text(json.dumps(damaged))
        with pytest.raises(
            BadFile, match=r"m: its tokenizer \(tokenizer.json, tokenizer_config.json\) cannot be loaded"
        ):
            tokenizer(folder)


def test_files_of_slow_tokenizers(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(BadFile, match=r"no merges.txt beside vocab.json, and no tokenizer.json"):
        tokenizer(folder)
    (folder / "merges.txt").write_bytes(LFS_POINTER)
    with pytest.raises(BadFile, match=r"merges.txt: a Git LFS pointer"):
        tokenizer(folder)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x00pieces")
    with pytest.raises(DipcError) as caught:
        tokenizer(folder)
    needed = importlib.util.find_spec("sentencepiece") is None
    assert isinstance(caught.value, MissingDependency if needed else BadFile) and "tokenizer.model" in str(caught.value)
    (folder / "tokenizer.model").write_bytes(LFS_POINTER)
    with pytest.raises(BadFile, match=r"tokenizer.model: a Git LFS pointer"):
        tokenizer(folder)


def test_what_is_not_read_is_not_looked_at(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(LFS_POINTER)
    assert tokenizer(folder) is not None
