"""GGUF files in a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from dipc.errors import UsageError
from dipc.frontend.gguf.container import parts_of
from dipc.frontend.gguf.find import models_among
from dipc.frontend.tracer import first_line


def gguf_on_hub(model: str) -> Path | None:
    """Return the file of a model in GGUF on the hub, fetched or from the cache; None where it is no such model.

    Args:
        model: `owner/repository/file.gguf`, or a repository with one model in GGUF and no config.json.

    Raises:
        UsageError: the repository holds several, or the hub did not give the file.
    """
    owner, repository, *rest = model.split("/")
    name = f"{owner}/{repository}"
    if rest:
        return _fetched(name, "/".join(rest))
    if not _is_without_config(name):
        return None
    found = models_among(_files(name))
    if len(found) > 1:
        raise UsageError(f"{name}: holds several models; give one, as {name}/{found[0]} or {name}/{found[1]}")
    return _fetched(name, found[0]) if found else None


def _is_without_config(name: str) -> bool:
    from transformers.utils.hub import cached_file

    try:
        return cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False) is None
    except Exception:
        return False  # whoever opens the model says what is wrong


def _files(name: str) -> list[str]:
    from huggingface_hub import list_repo_files

    try:
        return sorted(file for file in list_repo_files(name) if file.endswith(".gguf"))
    except Exception:
        return []


def _fetched(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        paths = [Path(hf_hub_download(name, str(part))) for part in parts_of(Path(file))]
    except Exception as error:
        raise UsageError(f"no model '{name}/{file}': the hub did not give it: {first_line(error)}") from error
    return paths[0]
