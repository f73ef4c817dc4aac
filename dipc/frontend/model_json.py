"""The JSON files of a model, read as leniently as transformers reads them: `Infinity` and doubled keys may be there."""

from __future__ import annotations

import json
from pathlib import Path

from dipc.documents import JsonObject
from dipc.errors import BadFile
from dipc.frontend.tracer import first_line
from dipc.input_file import check_input, read_input

MOST_BYTES = 1 << 30
MOST_CONFIG_BYTES = 1 << 24
MOST_LAYERS = 10_000


def check_model_file(path: Path, most_bytes: int | None = None) -> None:
    """BadFile unless a file of a model can be read and holds something; of more than `most_bytes` it cannot."""
    try:
        check_input(path, most_bytes)
    except FileNotFoundError as error:
        raise BadFile(f"{path}: there is no such file") from error
    if path.stat().st_size == 0:
        raise BadFile(f"{path}: is empty")


def read_object(path: Path, most_bytes: int = MOST_BYTES, kind: str = "damaged") -> JsonObject:
    """Read a JSON object. BadFile, which says `kind`, for everything else and for what is larger than `most_bytes`."""
    check_model_file(path, most_bytes)
    try:
        content = json.loads(read_input(path, most_bytes).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path}: {kind}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BadFile(f"{path}: {kind}: it holds no JSON object")
    return content


def read_config(path: Path) -> JsonObject:
    """Read a config.json. BadFile if it cannot be read, holds no JSON object, or more layers than can be."""
    config = read_object(path, MOST_CONFIG_BYTES, "not a model's config.json")
    for holder in (config, config.get("text_config")):
        layers = holder.get("num_hidden_layers") if isinstance(holder, dict) else None
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise BadFile(f"{path}: num_hidden_layers is {layers:,}; at most {MOST_LAYERS:,} can be captured")
    return config
