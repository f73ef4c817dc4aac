"""Capture: a Hugging Face id, a folder, a bare config.json or a module becomes a Program.

This file finds and opens the model; `tracer.py` traces it.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dipc.documents import JsonObject
from dipc.errors import BadFile, UnsupportedModel, UsageError
from dipc.frontend.configs import read_configuration
from dipc.frontend.generation_config import check_generation_config
from dipc.frontend.tracer import Source, first_line, quiet, trace
from dipc.ir.program import Program

DEMO = Path(__file__).parents[1] / "demo"
DTYPES = ("auto", "float32", "bfloat16", "float16")


def capture(
    model: str | Path | nn.Module,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    name: str | None = None,
) -> Program:
    """Capture a causal language model as a Program for prefill and decode, with its KV cache as carried ports.

    Args:
        model: "demo", a Hugging Face id, a folder with config.json and weights, a config.json alone (structure and
            cost, no weights), or a transformers module.
        dtype: what to compute in. "auto" keeps bfloat16 and float32 checkpoints as they are and widens float16.
        trust_remote_code: run model code that comes with the checkpoint. Off unless the user says so.
        name: what results call the model; by default the id, the folder's or the class's name.

    Raises:
        UsageError: no such model, or an unknown dtype.
        UnsupportedModel: it is no decoder-only language model, or the tracer cannot follow it.
        BadFile: config.json or the weights cannot be read.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if isinstance(model, nn.Module):
        config = getattr(model, "config", None)
        if config is None:
            raise UnsupportedModel(f"{type(model).__name__} has no transformers config; give a transformers model")
        first = next(model.parameters())
        source = Source(model, config, name or type(model).__name__, first.element_size() * 8.0)
    else:
        source = _open(str(model), dtype, trust_remote_code)
        if name:
            source = Source(source.model, source.config, name, source.stored_bits, source.tokenizer)
    return trace(source)


def find_model(model: str) -> Path | str:
    """The file or folder that a model's name means, or the name itself where it is a Hugging Face id.

    Raises:
        UsageError: it is none of these, or an exported model.
        BadFile: a folder without a config.json.
    """
    path = DEMO if model == "demo" else Path(model)
    if path.suffix == ".onnx" or ((path / "model.onnx").is_file() and not (path / "config.json").is_file()):
        raise UsageError(f"{path}: this is an exported model, which only `run` and `eval` take, with --backend onnx")
    if path.is_dir() and not (path / "config.json").is_file():
        raise BadFile(f"{path}: no config.json in this folder, so it is no Hugging Face model")
    if path.exists():
        return path
    if model.count("/") != 1 or model.startswith((".", "/")):
        beside = [entry.name for entry in Path().iterdir() if (entry / "config.json").is_file()]
        close = difflib.get_close_matches(model, ["demo", *beside], n=1)
        guess = f"; did you mean {close[0]!r}?" if close else " (try 'demo')"
        raise UsageError(f"no model {model!r}: not a folder, a config.json or a Hugging Face id{guess}")
    return model


def read_config(path: Path) -> JsonObject:
    """Read a config.json. BadFile if it cannot be read, or holds no JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path}: not a model's config.json: {error}") from error
    if not isinstance(config, dict):
        raise BadFile(f"{path}: not a model's config.json: it holds no JSON object")
    return config


def _open(model: str, dtype: str, trust_remote_code: bool) -> Source:
    where = find_model(model)
    if isinstance(where, Path) and where.is_file():
        return _from_config(where)
    return _from_pretrained(where, model, dtype, trust_remote_code)


def _from_config(path: Path) -> Source:
    from transformers import AutoModelForCausalLM

    try:
        # False, not left out: transformers would ask at a terminal whether to run code that the config names.
        config = read_configuration(path, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModel(
                f"{path}: its model's code comes with the checkpoint, and from a config alone it is never run"
            ) from error
        raise BadFile(f"{path}: not a model's config.json: {first_line(error)}") from error
    if getattr(config, "auto_map", None):
        raise UnsupportedModel(f"{path}: its model's code comes with the checkpoint, and from a config it is never run")
    _require_decoder(config, str(path))
    bits = 8.0 * (_config_dtype(config) or torch.float16).itemsize  # read before from_config overwrites it
    try:
        with quiet(), torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModel(f"{path}: no model can be made of it: {first_line(error)}") from error
    name = path.stem if path.name != "config.json" else path.resolve().parent.name
    return Source(twin, config, name, bits)


def _from_pretrained(where: Path | str, name: str, dtype: str, trust_remote_code: bool) -> Source:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            config = read_configuration(where, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not isinstance(where, Path) and "trust_remote_code" not in str(error):
            raise UsageError(
                f"no model {name!r}: no such folder, and the hub did not give it: {first_line(error)}"
            ) from error
        raise _load_error(name, error) from error
    _require_decoder(config, name)
    check_generation_config(where)
    stored = _config_dtype(config) or torch.float32
    compute = getattr(torch, dtype) if dtype != "auto" else torch.float32 if stored == torch.float16 else stored
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                where, config=config, dtype=compute, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise _load_error(name, error) from error
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
    except Exception:
        tokenizer = None
    short = name if name == "demo" or not isinstance(where, Path) else where.resolve().name
    return Source(model, config, short, 8.0 * stored.itemsize, tokenizer)


def _load_error(name: str, error: Exception) -> Exception:
    if "trust_remote_code" in str(error):
        return UsageError(
            f"{name}: its code comes with the checkpoint; read it, then add --trust-remote-code to run it"
        )
    return BadFile(f"{name}: cannot be loaded: {first_line(error)}")


def _config_dtype(config: Any) -> torch.dtype | None:
    found = getattr(config, "dtype", None)
    return getattr(torch, found) if isinstance(found, str) else found


def _require_decoder(config: Any, name: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    architectures = list(getattr(config, "architectures", None) or [])
    decoder = any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in architectures) or not architectures
    encoder = getattr(config, "is_encoder_decoder", False) or config.model_type in ("bert", "roberta", "electra")
    # A checkpoint may bring its own code; whether that is run is decided when it is loaded.
    known = config.model_type in CAUSAL or "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not decoder or encoder or not known:
        kind = architectures[0] if architectures else config.model_type
        raise UnsupportedModel(
            f"{name}: {kind} is no decoder-only language model; dipc compiles causal language models"
        )
