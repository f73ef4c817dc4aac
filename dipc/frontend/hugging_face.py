"""Capture: a Hugging Face id, a folder, a GGUF file, a bare config.json or a module becomes a Program.

This file finds the model; `bare_config.py`, `pretrained.py` and `gguf/` open it, and `tracer.py` traces it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from dipc.errors import UnsupportedModel, UsageError
from dipc.frontend.bare_config import from_config
from dipc.frontend.checkpoint import stored_as
from dipc.frontend.digest import model_digest
from dipc.frontend.gguf.find import gguf_in
from dipc.frontend.gguf.hub import gguf_on_hub
from dipc.frontend.gguf.model import from_gguf
from dipc.frontend.loading import check_finite
from dipc.frontend.named_models import NAMES, named_model
from dipc.frontend.pretrained import from_pretrained
from dipc.frontend.stored_codes import with_codes
from dipc.frontend.stored_width import stored_width
from dipc.frontend.tracer import Source, trace
from dipc.ir.codes import QuantizedTensor
from dipc.ir.program import Program
from dipc.ir.stored_weight import values_of

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
        model: "demo" or "smollm2", a Hugging Face id, a folder with config.json and weights, a GGUF file or a folder
            or hub repository with one, a config.json alone (structure and cost, no weights), or a transformers module.
        dtype: what to compute in. "auto" keeps bfloat16 and float32 checkpoints as they are and widens float16.
        trust_remote_code: run model code that comes with the checkpoint. Off unless the user says so.
        name: what results call the model; by default the id, the folder's or the class's name.

    Raises:
        UsageError: no such model, or an unknown dtype.
        UnsupportedModel: it is no decoder-only language model, its weights are quantised in a way that dipc cannot
            compute, or the tracer cannot follow it.
        BadFile: a file of the model is damaged, weights are missing or do not fit, or one is NaN or infinite.
        MissingDependency: a file of the model needs a package that is not there.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if isinstance(model, nn.Module):
        config = getattr(model, "config", None)
        if config is None:
            raise UnsupportedModel(f"{type(model).__name__} has no transformers config; give a transformers model")
        width = stored_width({n: stored_as(p) for n, p in model.named_parameters()})
        source = Source(model, config, type(model).__name__, width.bits, own_bits=width.own)
    else:
        source = _open(str(model), dtype, trust_remote_code)
    source = dataclasses.replace(source, name=name or source.name)
    check_finite(source.name, source.model)
    program = trace(source)
    return _coded(program, source.codes) if source.codes else program


def _coded(program: Program, codes: Mapping[str, QuantizedTensor]) -> Program:
    """The program with the codes that its model came with, and with the values of those that it cannot take."""
    after, wide = with_codes(program, codes)
    absent = {name for name in (f"{m.where}.weight" for m in wide) if name in program.weights}
    if not absent:
        return after
    values = {name: values_of(codes[name], program.weights[name].dtype) for name in absent}
    after = after.replace(weights={**after.weights, **values})
    return after.replace(info=dataclasses.replace(after.info, digest=model_digest(after)))


def find_model(model: str) -> Path | str:
    """The file or folder that a model's name means, or the name itself where it is a Hugging Face id.

    Raises:
        UsageError: it is none of these, or an exported model.
        BadFile: a folder with neither a config.json nor a GGUF file.
        MissingDependency: a package brings the model, and is not installed.
    """
    path = named_model(model) or Path(model)
    if path.suffix == ".onnx" or ((path / "model.onnx").is_file() and not (path / "config.json").is_file()):
        raise UsageError(f"{path}: this is an exported model, which only `run` and `eval` take, with --backend onnx")
    if path.is_dir() and not (path / "config.json").is_file():
        return gguf_in(path)
    if path.exists():
        return path
    on_hub = model.count("/") == 1 or (model.count("/") > 1 and model.endswith(".gguf"))
    if not on_hub or model.startswith((".", "/")):
        beside = [entry.name for entry in Path().iterdir() if (entry / "config.json").is_file()]
        close = difflib.get_close_matches(model, [*NAMES, *beside], n=1)
        guess = f"; did you mean {close[0]!r}?" if close else " (try 'demo')"
        raise UsageError(f"no model {model!r}: not a folder, a GGUF file, a config.json or a Hugging Face id{guess}")
    return model


def _open(model: str, dtype: str, trust_remote_code: bool) -> Source:
    where = find_model(model)
    if isinstance(where, Path) and where.suffix == ".gguf":
        return from_gguf(where, model if model in NAMES else where.stem, dtype)
    if isinstance(where, Path) and not where.is_dir():
        return from_config(where)
    if isinstance(where, str) and (file := gguf_on_hub(where)) is not None:
        return from_gguf(file, model, dtype)
    return from_pretrained(where, model, dtype, trust_remote_code)
