"""The transformers config that a GGUF file describes."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.gguf.container import GgufFile
from dipc.frontend.tracer import first_line, quiet

_ONE_FLOAT32 = struct.pack("<IQIQ", 1, 1, 0, 0)
_ALIGN = 32


def config_of(file: GgufFile) -> Any:
    """Return the config by transformers' own mapping.

    transformers reads a file several times and a vocabulary slowly, and needs none of either here: it is given the
    file's metadata without the vocabulary, and its tensors' names.

    Raises:
        UnsupportedModel: transformers knows no such architecture.
        BadFile: the metadata are not what the architecture needs.
    """
    from transformers import AutoConfig

    architecture = file.architecture
    if architecture == "clip" or file.metadata.get("general.type") == "mmproj":
        raise UnsupportedModel(f"{file.path}: is the vision part of a model ({architecture}); give the language model")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").write_bytes(_without_vocabulary(file))
        try:
            with quiet():
                config = AutoConfig.from_pretrained(folder, gguf_file="model.gguf")
        except Exception as error:
            line = first_line(error).replace(folder, str(file.path.parent))
            if "not supported" in line or "model type" in line or isinstance(error, NotImplementedError):
                raise UnsupportedModel(f"{file.path}: transformers reads no GGUF file of a {architecture}") from error
            raise BadFile(f"{file.path}: its metadata describe no model: {type(error).__name__}: {line}") from error
    config.name_or_path = str(file.path)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and f"{architecture}.vocab_size" not in file.metadata:
        config.vocab_size = embedding.shape[0]
    width = file.metadata.get(f"{architecture}.attention.key_length")
    if isinstance(width, int) and hasattr(config, "head_dim"):
        config.head_dim = width
    return config


def _without_vocabulary(file: GgufFile) -> bytes:
    """Make a GGUF file of the same metadata, but for arrays of the tokenizer, with a number for every tensor."""
    kept = [raw for key, raw in file.entries.items() if not _is_vocabulary(key, file.metadata[key])]
    names = [name.encode() for name in file.tensors]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(kept)) + b"".join(kept)
    head += b"".join(struct.pack("<Q", len(name)) + name + _ONE_FLOAT32 for name in names)
    return head + bytes(-len(head) % max(_ALIGN, file.metadata.get("general.alignment", _ALIGN)) + _ALIGN)


def _is_vocabulary(key: str, value: Any) -> bool:
    return key.startswith("tokenizer.") and isinstance(value, list)
