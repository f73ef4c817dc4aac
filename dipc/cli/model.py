"""Say of a model what needs no loading of its weights: that it exists, and of which family it is."""

from __future__ import annotations

from dipc.documents import JsonObject
from dipc.errors import UsageError


def describe_model(model: str, trust_remote_code: bool) -> JsonObject:
    """Name, kind, family and layers of a model as `compile` takes it.

    Raises:
        UsageError: there is no such model.
        BadFile: its config.json is missing or no JSON object, or its GGUF file damaged.
    """
    from dipc.frontend.gguf.container import read_gguf
    from dipc.frontend.hugging_face import find_model
    from dipc.frontend.model_json import read_config

    where = find_model(model)
    if isinstance(where, str):
        return _described(model, "a Hugging Face id", _from_hub(model, trust_remote_code))
    if where.suffix == ".gguf":
        file = read_gguf(where)
        layers = file.metadata.get(f"{file.architecture}.block_count", "unknown")
        return {"model": model, "kind": "a GGUF file", "family": file.architecture, "layers": layers}
    if where.is_file():
        return _described(model, "a config, no weights", read_config(where))
    return _described(model, "a folder", read_config(where / "config.json"))


def _described(model: str, kind: str, config: JsonObject) -> JsonObject:
    text = config.get("text_config", config)
    family, layers = config.get("model_type", "unknown"), text.get("num_hidden_layers", "unknown")
    return {"model": model, "kind": kind, "family": family, "layers": layers}


def _from_hub(model: str, trust_remote_code: bool) -> JsonObject:
    from transformers import AutoConfig

    from dipc.frontend.tracer import first_line

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UsageError(f"no model {model!r}: the hub did not give it: {first_line(error)}") from error
    return dict(config.to_dict())
