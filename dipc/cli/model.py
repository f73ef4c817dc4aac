"""What can be said of a model without loading its weights: that it exists, and of which family it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dipc.errors import BadFile, UsageError


def describe_model(model: str, trust_remote_code: bool) -> dict[str, Any]:
    """Name, kind, family and layers of a model as `compile` takes it.

    Raises:
        UsageError: there is no such model.
        BadFile: its config.json is missing or no JSON object.
    """
    import dipc

    path = Path(dipc.__file__).parent / "demo" if model == "demo" else Path(model)
    if path.is_file():
        return _described(model, "a config, no weights", _read(path))
    if path.is_dir():
        return _described(model, "a folder", _read(path / "config.json"))
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise UsageError(f"no model {model!r}: not a folder, a config.json or a Hugging Face id (try 'demo')")
    return _described(model, "a Hugging Face id", _from_hub(model, trust_remote_code))


def _described(model: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config", config)
    family, layers = config.get("model_type", "unknown"), text.get("num_hidden_layers", "unknown")
    return {"model": model, "kind": kind, "family": family, "layers": layers}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadFile(f"{path.parent}: no config.json in this folder, so it is no Hugging Face model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path}: not a model's config.json: {error}") from error
    if not isinstance(config, dict):
        raise BadFile(f"{path}: not a model's config.json: it holds no JSON object")
    return config


def _from_hub(model: str, trust_remote_code: bool) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"no model {model!r}: no such folder, and the hub did not give it: {reason[:200]}") from error
    return dict(config.to_dict())
