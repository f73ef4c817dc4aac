"""A checkpoint's configuration, read by transformers, in the spellings of earlier releases too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dipc.documents import JsonObject

# Families whose first checkpoints called longrope by another name; transformers validates before it translates.
_LONGROPE_ONCE = {"phi3": ("su", "yarn")}


def read_configuration(where: Path | str, *, trust_remote_code: bool) -> Any:
    """Read the configuration of a Hugging Face id, a folder or a file. Errors are those of transformers."""
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    found, _ = PreTrainedConfig.get_config_dict(where)
    renamed = _renamed(found)
    if renamed is None:
        return AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
    return CONFIG_MAPPING[str(renamed["model_type"])].from_dict(renamed)


def _renamed(config: JsonObject) -> JsonObject | None:
    """The same with today's name of its rotary scaling; None where that is what it has."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if not isinstance(scaling, dict):
            continue
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind in _LONGROPE_ONCE.get(str(config.get("model_type")), ()):
            now = {name: value for name, value in scaling.items() if name != "type"} | {"rope_type": "longrope"}
            return {**config, key: now}
    return None
