"""The tokenizer of a model: absent, sound, or refused with the file that is at fault.

transformers makes a tokenizer of next to no tokens where a family has one of its own and its files are missing, so the
files are looked at first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipc.errors import BadFile, MissingDependency, UsageError
from dipc.frontend.checkpoint import Find
from dipc.frontend.model_json import MOST_BYTES, check_model_file, read_object
from dipc.frontend.tracer import first_line, quiet

WHOLE = "tokenizer.json"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
VOCABULARIES = (WHOLE, *SENTENCEPIECE, "vocab.json", "vocab.txt", "tekken.json")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def load_tokenizer(where: Path | str, name: str, find: Find, trust_remote_code: bool) -> Any:
    """The tokenizer of a model, or None where it came without one.

    Args:
        where: the folder or Hugging Face id.
        name: what messages call the model.
        find: its files.
        trust_remote_code: run a tokenizer's code that comes with it.

    Raises:
        BadFile: one of its files is damaged, or a part is missing.
        MissingDependency: its format needs a package that is not there.
        UsageError: its code comes with the checkpoint, and was not to be run.
    """
    settings = {file: read_object(path) for file in SETTINGS if (path := find(file)) is not None}
    about = settings.get(SETTINGS[0], {})
    vocabularies = {file: path for file in VOCABULARIES if (path := find(file)) is not None}
    own_code = bool(about.get("auto_map"))
    if not vocabularies and not own_code and about.get("tokenizer_class") not in _WITHOUT_FILES:
        return None
    if not own_code:
        _check_parts(name, vocabularies, find)
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
            tokenizer("a")  # Settings of the wrong kind show when it is used, not when it is made.
            return tokenizer
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{name}: its tokenizer's code comes with it; read it, then add --trust-remote-code to run it"
            ) from error
        for path in vocabularies.values():
            check_model_file(path, MOST_BYTES)
            if path.suffix == ".json":
                read_object(path)
        files = ", ".join([*vocabularies, *settings])
        what = f"{type(error).__name__}: {first_line(error)}"
        raise BadFile(f"{name}: its tokenizer ({files}) cannot be loaded: {what}") from error


def _check_parts(name: str, vocabularies: Mapping[str, Path], find: Find) -> None:
    if WHOLE in vocabularies:
        check_model_file(vocabularies[WHOLE], MOST_BYTES)
        return
    for path in vocabularies.values():
        check_model_file(path, MOST_BYTES)
    pieces = [path for file, path in vocabularies.items() if file in SENTENCEPIECE]
    if pieces and importlib.util.find_spec("sentencepiece") is None:
        raise MissingDependency(
            f"{pieces[0]}: is read with sentencepiece; run `pip install sentencepiece`, or add the model's {WHOLE}"
        )
    if list(vocabularies) == ["vocab.json"]:
        merges = find("merges.txt")
        if merges is None:
            raise BadFile(f"{name}: no merges.txt beside vocab.json, and no {WHOLE}; its tokenizer is incomplete")
        check_model_file(merges, MOST_BYTES)
