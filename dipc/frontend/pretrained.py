"""A checkpoint as a model: a folder's, or one from the hub."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dipc.errors import BadFile, DipcError, UsageError
from dipc.frontend.checkpoint import Find, StoredTensor, read_tensors, stored_tensors
from dipc.frontend.configs import read_configuration
from dipc.frontend.decoder import config_dtype, on_meta, require_decoder
from dipc.frontend.generation_config import check_generation_config
from dipc.frontend.loading import check_loaded, check_size, load
from dipc.frontend.model_json import MOST_CONFIG_BYTES, check_model_file, read_config
from dipc.frontend.prequantized.model import layout_of, open_quantized
from dipc.frontend.quantization import check_computable, quantization_of, widened_as_loaded, without_quantization
from dipc.frontend.stored_width import compute_dtype, main_dtype, stored_width
from dipc.frontend.tokenizer import load_tokenizer
from dipc.frontend.tracer import Source, first_line, quiet
from dipc.ir.codes import QuantizedTensor


def from_pretrained(where: Path | str, name: str, dtype: str, trust_remote_code: bool) -> Source:
    """Open a checkpoint, with its tokenizer if it has one.

    Args:
        where: its folder or Hugging Face id.
        name: what messages call it.
        dtype: what to compute in, or "auto".
        trust_remote_code: run code that comes with it.

    Raises:
        UsageError: the hub has no such model, it needs its own code, or holds an adapter besides.
        UnsupportedModel: it is no decoder-only language model, or quantised in a way that cannot be computed.
        BadFile: a file is damaged, weights are missing or do not fit.
        MissingDependency: a file needs a package that is not there.
    """
    if isinstance(where, Path):
        _check_folder(where)
    try:
        with quiet():
            config = read_configuration(where, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not isinstance(where, Path) and "trust_remote_code" not in str(error):
            raise UsageError(
                f"no model {name!r}: no such folder, and the hub did not give it: {first_line(error)}"
            ) from error
        raise _load_error(name, error) from error
    require_decoder(config, name)
    find = _finder(where, name)
    explicit = getattr(config, "transformers_weights", None)
    explicit = explicit if isinstance(explicit, str) else None
    tensors = stored_tensors(name, find, explicit)
    codes: Mapping[str, QuantizedTensor] = {}
    quantization = quantization_of(config)
    layout = None if quantization is None else layout_of(name, quantization)
    try:
        if quantization is None or layout is None:
            model = _loaded(where, name, config, tensors, dtype, trust_remote_code)
        else:
            without_quantization(config)
            held = read_tensors(name, find, explicit)
            opened = open_quantized(name, on_meta(config), held, layout, quantization, dtype)
            model, tensors, codes = opened.model, opened.tensors, opened.codes
            _read_generation_config(model, where)
    except DipcError:
        raise
    except Exception as error:
        raise _load_error(name, error) from error
    tokenizer = load_tokenizer(where, name, find, trust_remote_code)
    short = name if name == "demo" or not isinstance(where, Path) else where.resolve().name
    width = stored_width(tensors, {n for n, _ in model.named_parameters()})
    return Source(model, config, short, width.bits, tokenizer, width.own, codes)


def _loaded(
    where: Path | str,
    name: str,
    config: Any,
    tensors: Mapping[str, StoredTensor],
    dtype: str,
    trust_remote_code: bool,
) -> nn.Module:
    """The model as transformers loads it, held to its checkpoint."""
    from transformers import AutoModelForCausalLM

    if (quantization := quantization_of(config)) is not None:
        check_computable(name, quantization, tensors)
        widened_as_loaded(config)
    compute = getattr(torch, dtype) if dtype != "auto" else compute_dtype(main_dtype(tensors), config_dtype(config))
    if not (trust_remote_code and getattr(config, "auto_map", None)):
        check_size(name, _plain_twin(config), tensors)
    options = {"config": config, "dtype": compute, "trust_remote_code": trust_remote_code}
    model, info = load(AutoModelForCausalLM, where, **options)
    check_loaded(name, info)
    return model


def _read_generation_config(model: Any, where: Path | str) -> None:
    """Give a model what its checkpoint says of generating, as transformers does where it loads by itself."""
    from transformers import GenerationConfig

    with contextlib.suppress(OSError), quiet():
        model.generation_config = GenerationConfig.from_pretrained(where)


def _plain_twin(config: Any) -> nn.Module:
    plain = copy.deepcopy(config)
    without_quantization(plain)
    return on_meta(plain)


def _check_folder(folder: Path) -> None:
    """BadFile for damaged JSON of which transformers makes nothing; UsageError for an adapter beside the model."""
    read_config(folder / "config.json")
    generation = folder / "generation_config.json"
    if os.path.lexists(generation):
        check_model_file(generation, MOST_CONFIG_BYTES)
        check_generation_config(folder)
    if os.path.lexists(folder / "adapter_config.json"):
        raise UsageError(
            f"{folder}: holds an adapter (adapter_config.json) beside the model; move it to a folder of its own and "
            "add it with the pass fuse-lora"
        )


def _finder(where: Path | str, name: str) -> Find:
    """Find the files of a model: in its folder, or on the hub."""
    if isinstance(where, Path):
        return lambda file: where / file if os.path.lexists(where / file) else None

    def find(file: str) -> Path | None:
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(where, file, _raise_exceptions_for_missing_entries=False)
        except Exception as error:
            raise UsageError(f"{name}: the hub did not give {file}: {first_line(error)}") from error
        return None if found is None else Path(found)

    return find


def _load_error(name: str, error: Exception) -> Exception:
    if "trust_remote_code" in str(error):
        return UsageError(
            f"{name}: its code comes with the checkpoint; read it, then add --trust-remote-code to run it"
        )
    return BadFile(f"{name}: cannot be loaded: {first_line(error)}")
