"""A GGUF file as a model: config, weights, tokenizer and chat template out of one file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dipc.errors import BadFile, DipcError, MissingDependency, UnsupportedModel
from dipc.frontend.checkpoint import StoredTensor
from dipc.frontend.decoder import on_meta, require_decoder
from dipc.frontend.gguf.config import config_of
from dipc.frontend.gguf.container import GgufFile, GgufTensor, read_gguf
from dipc.frontend.gguf.rope import divide_frequencies, stretch_positions
from dipc.frontend.gguf.weights import place
from dipc.frontend.loading import check_loaded, load
from dipc.frontend.stored_width import compute_dtype, main_dtype, stored_width
from dipc.frontend.tracer import Source, first_line, quiet
from dipc.ir.codes import QuantizedTensor

_ENDS = ("eos", "eot", "eom")


def from_gguf(path: Path, name: str, dtype: str) -> Source:
    """Open a GGUF file, or a split one by any of its parts.

    Args:
        path: the file.
        name: what results call the model.
        dtype: what to compute in; "auto" keeps a file of bfloat16 so, and widens all else to float32.

    Raises:
        MissingDependency: the package gguf is not installed.
        UnsupportedModel: it is no decoder-only language model, or of a kind that transformers does not read.
        BadFile: it is damaged or truncated, or its weights are not those that its metadata describe.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependency(f"{path}: GGUF files are read with gguf; run `pip install 'dipc[gguf]'`")
    file = read_gguf(path)
    config = config_of(file)
    require_decoder(config, str(path))
    stretch_positions(file, config)
    stored = {key: _stored_as(tensor) for key, tensor in file.tensors.items()}
    compute = getattr(torch, dtype) if dtype != "auto" else compute_dtype(main_dtype(stored), torch.float32)
    try:
        model, tensors, codes = _placed(file, config, compute) or _converted(file, config, compute)
    except DipcError:
        raise
    except Exception as error:
        raise BadFile(f"{path}: cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    divide_frequencies(file, model)
    _name_ends(file, model)
    width = stored_width(tensors, {n for n, _ in model.named_parameters()})
    return Source(model, config, name, width.bits, _tokenizer(file), width.own, codes)


def _stored_as(tensor: GgufTensor) -> StoredTensor:
    form = tensor.form
    dtype = {"F64": "float64", "F16": "float16", "BF16": "bfloat16"}.get(form.name, "float32")
    return StoredTensor(dtype, tensor.shape, form.bits)


_Opened = tuple[nn.Module, dict[str, StoredTensor], dict[str, QuantizedTensor]]


def _placed(file: GgufFile, config: Any, dtype: torch.dtype) -> _Opened | None:
    """Make the model of a family whose weights are one tensor of the file each, which keep codes; None for others."""
    twin = on_meta(config)
    if (placed := place(file, twin)) is None:
        return None
    values = {name: tensor.value() for name, tensor in placed.items()}
    model, info = load(type(twin), None, config=config, state_dict=values, dtype=dtype)
    check_loaded(str(file.path), info)
    codes = {name: found for name, tensor in placed.items() if (found := tensor.codes()) is not None}
    return model, {name: _stored_as(tensor.stored) for name, tensor in placed.items()}, codes


def _converted(file: GgufFile, config: Any, dtype: torch.dtype) -> _Opened:
    """Have transformers widen the model of another family; what each weight was stored in is not known then."""
    from transformers import AutoModelForCausalLM

    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependency(
            f"{file.path}: transformers reads a {file.architecture} in GGUF with accelerate; run "
            "`pip install accelerate`"
        )
    if file.metadata.get("split.count", 1) > 1:
        raise UnsupportedModel(f"{file.path}: transformers reads no split GGUF file of a {file.architecture}; merge it")
    options = {"gguf_file": file.path.name, "config": config, "dtype": dtype}
    model, info = load(AutoModelForCausalLM, file.path.parent, **options)
    check_loaded(str(file.path), info)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, {name: _stored_as(tensor) for name, tensor in file.tensors.items()}, {}


def _name_ends(file: GgufFile, model: nn.Module) -> None:
    """Name the tokens that end a text or a turn, in place."""
    ids = [file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in _ENDS]
    found = list(dict.fromkeys(i for i in ids if isinstance(i, int)))
    if found and (generation := getattr(model, "generation_config", None)) is not None:
        generation.eos_token_id = found


def _tokenizer(file: GgufFile) -> Any:
    """Make the tokenizer of the file, with its chat template; None where the file brings none."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model in (None, "none") or not file.metadata.get("tokenizer.ggml.tokens"):
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(file.path.parent, gguf_file=file.path.name)
            tokenizer("a")
    except Exception as error:
        line = first_line(error)
        if "Cannot build a tokenizer" in line:
            raise UnsupportedModel(f"{file.path}: transformers makes no tokenizer of the kind {model!r}") from error
        raise BadFile(f"{file.path}: its tokenizer cannot be made: {type(error).__name__}: {line}") from error
    return tokenizer
