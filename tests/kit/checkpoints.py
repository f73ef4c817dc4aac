"""Checkpoints on disk, sound and damaged, of a model that is small enough to be written for every test."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from kit.byte_text import byte_tokenizer
from kit.tiny_models import tiny_model

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb\nsize 12345\n"
)


@cache
def tiny_tensors() -> dict[str, Tensor]:
    """The weights of `tiny_model()` by name."""
    return {name: tensor.detach().clone() for name, tensor in tiny_model().state_dict().items()}


@cache
def tiny_config() -> dict[str, Any]:
    """Its config.json."""
    config: Any = tiny_model().config
    return {**json.loads(config.to_json_string(use_diff=False)), "architectures": ["LlamaForCausalLM"]}


def write_checkpoint(
    folder: Path, tensors: dict[str, Tensor] | None = None, tokenizer: bool = False, **config: Any
) -> Path:
    """Write a model's folder; `config` changes its config.json, where None takes an entry out."""
    folder.mkdir(exist_ok=True)
    content = {key: value for key, value in {**tiny_config(), **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))
    plain = {name: tensor.contiguous() for name, tensor in (tiny_tensors() if tensors is None else tensors).items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer:
        byte_tokenizer().save_pretrained(str(folder))
    return folder
