"""The tokens that end a text, of a model's generation_config.json: there may be several, and any of them does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dipc.documents import read_json
from dipc.errors import BadFile

NAME = "generation_config.json"


def eos_ids(model: nn.Module) -> tuple[int, ...]:
    """Return the end tokens of a transformers module, each once; none where it names none.

    transformers reads them from generation_config.json, and from config.json where that file is absent.

    Raises:
        BadFile: they are no token ids.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        config = getattr(model, "config", None)
    return _checked(getattr(config, "eos_token_id", None), "the model's config")


def check_generation_config(where: Path | str) -> None:
    """BadFile where a folder's generation_config.json is damaged: transformers would silently do without it."""
    path = Path(where) / NAME
    if not isinstance(where, Path) or not path.exists():
        return
    try:
        content = path.read_text(encoding="utf-8")  # as transformers reads it, which knows no byte-order mark
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadFile(f"{path}: not UTF-8 text; save it as UTF-8") from None
    _checked(read_json(content, path).get("eos_token_id"), path)


def _checked(given: Any, where: object) -> tuple[int, ...]:
    ids = [] if given is None else given if isinstance(given, (list, tuple)) else [given]
    if wrong := [i for i in ids if type(i) is not int]:
        raise BadFile(f"{where}: eos_token_id holds {wrong[0]!r}, which is no token's number")
    return tuple(dict.fromkeys(i for i in ids if i >= 0))
