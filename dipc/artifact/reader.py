"""Read an artifact: every file is compared with its hash, and nothing in it is run (see `dipc.artifact.writer`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dipc.artifact.graph_json import graph_from_json
from dipc.artifact.graph_names import check_weight_names
from dipc.artifact.manifest import NAME, FileRecord, Manifest, read_manifest
from dipc.artifact.mapped_weights import map_weights
from dipc.artifact.widened_weights import widen
from dipc.documents import JsonObject, first_problem, read_json
from dipc.errors import BadFile, DipcError, UsageError
from dipc.frontend.tracer import first_line, quiet
from dipc.input_file import is_there, read_input
from dipc.ir.program import Method, Program
from dipc.ir.stored_dtype import NARROW
from dipc.ir.verify import torch_dtype, verify_structure
from dipc.pipeline.runner import PassLog


class _Weight(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact. `dumps` maps names such as `01-outline-glu` to program text, `reports` names to results."""

    path: Path
    program: Program
    pipeline: str
    log: tuple[PassLog, ...]
    manifest: Manifest
    dumps: Mapping[str, str] = field(default_factory=dict)
    reports: Mapping[str, JsonObject] = field(default_factory=dict)


def is_artifact(path: Path) -> bool:
    """Return whether the folder has a `dipc.json`; whether it is sound, only `load` says."""
    return os.path.isfile(path / NAME)


def load(path: Path, *, verify: bool = True) -> Artifact:
    """Read an artifact; no code from it is run.

    Args:
        path: the folder.
        verify: compare every file with its hash; without, only sizes are compared.

    Raises:
        UsageError: no such folder.
        BadFile: it is no artifact, is from a newer schema, or was changed; the message names the file.
    """
    path = Path(path)
    if not is_there(path):
        raise UsageError(f"{path}: no such folder")
    if not is_artifact(path):
        raise BadFile(f"{path}: not an artifact, it has no {NAME}; `dipc compile ... -o` makes one")
    manifest = read_manifest(path)
    _check_files(path, manifest, verify)
    return Artifact(
        path=path,
        program=_read_program(path, manifest),
        pipeline=manifest.pipeline,
        log=manifest.passes,
        manifest=manifest,
        dumps={Path(name).stem: _text(path / name) for name in manifest.files if name.startswith("graph/")},
        reports={
            Path(name).stem: read_json(_bytes(path / name), path / name)
            for name in manifest.files
            if name.startswith("reports/")
        },
    )


def _check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    for name, record in manifest.files.items():
        file = folder / name
        try:
            if not file.is_file():
                raise BadFile(f"{file}: is missing from the artifact; compile again")
            same = file.stat().st_size == record.size_bytes and (not verify or file_record(file) == record)
        except OSError as error:
            raise BadFile(f"{file}: cannot be read: {error.strerror}") from None
        if not same:
            raise BadFile(f"{file}: was changed after dipc wrote it; compile again")
    weights = "weights.safetensors" in manifest.files
    if "program.json" not in manifest.files or weights != manifest.model.has_weights:
        raise BadFile(f"{folder / NAME}: files: lists not the files that its model needs")


def _bytes(path: Path) -> bytes:
    try:
        return read_input(path)
    except FileNotFoundError:
        raise BadFile(f"{path}: is missing from the artifact; compile again") from None


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise BadFile(f"{path}: not UTF-8 text") from None


def _read_program(folder: Path, manifest: Manifest) -> Program:
    where = folder / "program.json"
    data = read_json(_bytes(where), where)
    if set(data) != {"graph", "dense", "weights"}:
        raise BadFile(f"{where}: must hold graph, dense and weights")
    try:
        shapes = _weight_shapes(data["weights"])
        weights = _read_weights(folder / "weights.safetensors", shapes) if manifest.model.has_weights else _meta(shapes)
        program = _program(data["graph"], weights, manifest, manifest.method)
        dense = None if data["dense"] is None else _program(data["dense"], weights, manifest, Method())
    except DipcError as error:
        raise BadFile(f"{where}: {error}") from error
    # What a forged graph can make torch raise has no common base, and none of it is worth a traceback.
    except Exception as error:
        raise BadFile(f"{where}: does not fit together: {type(error).__name__}: {str(error)[:200]}") from error
    tokenizer = _tokenizer(folder, manifest)
    return program.replace(tokenizer=tokenizer, dense=None if dense is None else dense.replace(tokenizer=tokenizer))


def _program(graph_data: Any, weights: dict[str, torch.Tensor], manifest: Manifest, method: Method) -> Program:
    graph, inputs, outputs = graph_from_json(graph_data)
    program = Program(graph, weights, inputs, outputs, manifest.model, manifest.mlps, method).replace()
    verify_structure(program)
    return program


def _weight_shapes(data: Any) -> dict[str, _Weight]:
    try:
        found = TypeAdapter(dict[str, _Weight]).validate_python(data)
    except ValidationError as error:
        raise BadFile(f"weights.{first_problem(error)}") from None
    check_weight_names(found)
    return found


def _meta(shapes: Mapping[str, _Weight]) -> dict[str, torch.Tensor]:
    return {n: torch.empty(w.shape, dtype=torch_dtype(w.dtype), device="meta") for n, w in shapes.items()}


def _read_weights(path: Path, shapes: Mapping[str, _Weight]) -> dict[str, torch.Tensor]:
    found = map_weights(path)
    for name in sorted({*found, *shapes}):
        if name not in found or name not in shapes:
            raise BadFile(f"{path.name} and the weights of the program differ in {name[:80]!r}")
        tensor, stated = found[name], shapes[name]
        dtypes = (torch.float32, *NARROW) if stated.dtype == "float32" else (torch_dtype(stated.dtype),)
        if list(tensor.shape) != stated.shape or tensor.dtype not in dtypes:
            raise BadFile(f"{path.name}: {name} is not {stated.dtype}{stated.shape}")
    narrow = {n: found[n] for n, w in shapes.items() if w.dtype == "float32" and found[n].dtype in NARROW}
    found |= widen(narrow, path.parent)
    return {name: found[name] for name in shapes}


def _tokenizer(folder: Path, manifest: Manifest) -> Any:
    """The tokenizer of the files that the manifest names: whatever else lies beside them would be read as well."""
    named = {name for name in manifest.files if name.startswith("tokenizer/")}
    if not named:
        return None
    if named == {name for name in list_files(folder) if name.startswith("tokenizer/")}:
        return read_tokenizer(folder / "tokenizer")
    with tempfile.TemporaryDirectory(prefix="dipc-") as alone:
        for name in named:
            copy = Path(alone) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy)
        return read_tokenizer(Path(alone) / "tokenizer")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer whose files are in a folder; none of its code is run. BadFile if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise BadFile(f"{folder}: cannot be loaded: {first_line(error)}") from error


def list_files(folder: Path) -> list[str]:
    """The files of an artifact but its manifest, as `Manifest.files` names them, sorted."""
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()]
    return sorted(name for name in found if name != NAME)


def file_record(path: Path) -> FileRecord:
    """Size and sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(size_bytes=path.stat().st_size, sha256=digest)
