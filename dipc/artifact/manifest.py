"""`dipc.json`: what an artifact was made from and by, and the size and sha256 of each of its other files.

It is read strictly (no unknown key, no conversion) and must be byte for byte what dipc writes, its own sha256 included,
so that a changed byte is found in this file as in every other.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dipc.documents import first_problem, read_json
from dipc.errors import BadFile
from dipc.input_file import read_input
from dipc.ir.program import Method, Mlp, ModelInfo
from dipc.pipeline.runner import PassLog

NAME = "dipc.json"
PLAIN, NARROWED = 1, 2
"""Schemas: weights are stored as they are computed, or some of them narrower."""
# Where files may lie: no path leaves the folder, and none is hidden.
_PATH = re.compile(r"program\.json|weights\.safetensors|(graph|reports|tokenizer)(/[\w-][\w.-]*)+", re.ASCII)
_SHA256 = r"^[0-9a-f]{64}$"


class FileRecord(BaseModel):
    """Size in bytes and sha256 of one file."""

    model_config = ConfigDict(strict=True, extra="forbid")
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=_SHA256)]


class Manifest(BaseModel):
    """The content of `dipc.json`. `files` maps paths, relative to the artifact and with `/`, to their records."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)
    schema_version: Annotated[int, Field(alias="schema")] = PLAIN
    versions: dict[str, str]
    model: ModelInfo
    method: Method
    pipeline: str
    mlps: tuple[Mlp, ...]
    passes: tuple[PassLog, ...]
    files: dict[str, FileRecord]

    def to_bytes(self) -> bytes:
        """The file: indented JSON that ends in the sha256 of everything before it."""
        data = self.model_dump(mode="json", by_alias=True)
        if not self.model.eos_ids:
            del data["model"]["eos_ids"]  # as in artifacts that were written before there were any
        if not data["model"]["own_bits"]:  # as before there were matrices of their own width
            del data["model"]["own_bits"]
        return _json({**data, "sha256": hashlib.sha256(_json(data)).hexdigest()})


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; BadFile where it is from another schema, malformed or changed."""
    where = folder / NAME
    try:
        raw = read_input(where)
    except FileNotFoundError:
        raise BadFile(f"{where}: is missing from the artifact; compile again") from None
    data = read_json(raw, where)
    schema = data.get("schema")
    if type(schema) is not int or schema < 1:
        raise BadFile(f"{where}: schema must be a whole number from 1, so this is no artifact of dipc")
    if schema > NARROWED:
        raise BadFile(f"{where}: written by a newer dipc (schema {schema}, this one reads {NARROWED}); upgrade dipc")
    data.pop("sha256", None)
    try:
        manifest = Manifest.model_validate_json(json.dumps(data))
    except (ValidationError, RecursionError) as error:
        what = first_problem(error) if isinstance(error, ValidationError) else "nested too deeply"
        raise BadFile(f"{where}: {what}") from None
    if manifest.to_bytes() != raw:
        raise BadFile(f"{where}: was changed after dipc wrote it; compile again")
    for path in manifest.files:
        if not _PATH.fullmatch(path):
            raise BadFile(f"{where}: files: {path[:80]!r} is no place for a file of an artifact")
    return manifest
