"""The compiled artifact: a folder that `compile` writes and everything else reads.

    out/  dipc.json             schema version, versions, model, method, pipeline, pass log, sha256 of every other file
          graph/NN-PASS.txt     the program as text, as captured (00) and after each pass
          program.json          the graph (dipc.artifact.graph_json), with dtype and shape of every weight
          weights.safetensors   the weights, in 16 bits where the checkpoint has them so (dipc.ir.stored_dtype); absent
                                where the model was compiled from its config alone
          tokenizer/            what transformers' AutoTokenizer reads; absent where there is none
          reports/NAME.json     results that were kept
          onnx/ and the like    exports, named by their backends, if any were made there; not part of the artifact

The program is not stored as torch's `.pt2`: `torch.export.load` unpickles, and hands shape
expressions to sympy's parser, which evaluates them, so that both can run code from the file. Our own JSON is data.

What is trusted: nothing in the folder is run. The graph may only call operators on an allow-list, weights are
safetensors, and the tokenizer is read by transformers without remote code. The hashes detect damage, not forgery:
whoever can write the folder can also write new hashes, and so choose what the model computes and how much memory and
time it takes, but not run code of their own. Plug-ins run only where the user names or installed them.

A folder is written beside its place and renamed, so a half-written artifact never exists under its name. Files that
`dipc.json` does not list are never read: a desktop, an editor or an interrupted `add_report` may have left them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from dipc.artifact.graph_json import graph_to_json
from dipc.artifact.manifest import NAME, NARROWED, PLAIN, Manifest, read_manifest
from dipc.artifact.reader import Artifact, file_record, is_artifact, list_files, load
from dipc.artifact.weights_file import write_weights
from dipc.documents import json_bytes
from dipc.errors import BadFile, UnsupportedModel, UsageError
from dipc.files import whole_folder, write_whole, writing
from dipc.ir.program import Program
from dipc.ir.stored_dtype import stored_dtype
from dipc.pipeline.runner import Compiled
from dipc.version import __version__

__all__ = ["Artifact", "add_report", "dump_name", "is_artifact", "load", "save"]

_FILE_NAME = re.compile(r"[\w-][\w.-]{0,79}", re.ASCII)


def dump_name(index: int, name: str) -> str:
    """`(1, "outline-glu")` -> `01-outline-glu`: a key of `dumps`. The captured program is 0, the first pass 1."""
    return f"{index:02d}-{name}"


def save(
    compiled: Compiled | Program,
    out: Path,
    *,
    dumps: Mapping[str, str] | None = None,
    reports: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Write an artifact.

    Args:
        compiled: the result of a pipeline, or a program by itself.
        out: the new folder.
        dumps: program text by `dump_name`; where it lacks the captured or the final program, that is added.
        reports: results by name.

    Raises:
        UsageError: `out` exists or cannot be written.
        UnsupportedModel: the program calls an operator that an artifact cannot hold.
    """
    with whole_folder(Path(out)) as staging:
        _write(compiled, staging, dumps or {}, reports or {})


def _write(
    compiled: Compiled | Program, folder: Path, dumps: Mapping[str, str], reports: Mapping[str, Mapping[str, object]]
) -> None:
    program = compiled.program if isinstance(compiled, Compiled) else compiled
    dense = None if program.dense is None else graph_to_json(program.dense)
    weights = _weights(program)
    forms = {n: {"dtype": str(w.dtype).removeprefix("torch."), "shape": list(w.shape)} for n, w in weights.items()}
    content = {"graph": graph_to_json(program), "dense": dense, "weights": forms}
    (folder / "program.json").write_text(json.dumps(content, allow_nan=False, separators=(",", ":")), "utf-8")
    stored = {name: stored_dtype(name, weight, program.info) for name, weight in weights.items()}
    if program.info.has_weights:
        write_weights(folder / "weights.safetensors", weights, stored)
    if program.tokenizer is not None:
        program.tokenizer.save_pretrained(str(folder / "tokenizer"))
    (folder / "graph").mkdir()
    for name, text in {**_texts(compiled), **dumps}.items():
        (folder / "graph" / f"{_checked(name)}.txt").write_text(text, "utf-8")
    (folder / "reports").mkdir()
    for name, report in reports.items():
        (folder / "reports" / f"{_checked(name)}.json").write_bytes(json_bytes(report))
    narrowed = any(stored[name] != weight.dtype for name, weight in weights.items())
    (folder / NAME).write_bytes(_manifest(compiled, program, folder, narrowed).to_bytes())


def _texts(compiled: Compiled | Program) -> dict[str, str]:
    if isinstance(compiled, Program):
        return {dump_name(0, "program"): compiled.text()}
    texts = {dump_name(0, "capture"): compiled.before.text()}
    if compiled.log:
        texts[dump_name(len(compiled.log), compiled.log[-1].text.partition("{")[0])] = compiled.program.text()
    return texts


def _checked(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a file's name; use letters, digits, '.', '_' and '-'")
    return name


def _weights(program: Program) -> dict[str, torch.Tensor]:
    """The weights of the program and of the dense one it is compared with; mostly the same."""
    both = {**program.reference.weights, **program.weights}
    for name, weight in program.reference.weights.items():
        new = both[name]
        same = new is weight or (new.shape, new.dtype) == (weight.shape, weight.dtype)
        if not same or (new is not weight and program.info.has_weights and not torch.equal(new, weight)):
            raise UnsupportedModel(f"{name} differs between the program and its dense reference; rename the new one")
    return both


def _manifest(compiled: Compiled | Program, program: Program, folder: Path, narrowed: bool) -> Manifest:
    passes = compiled.log if isinstance(compiled, Compiled) else ()
    manifest = Manifest(
        schema_version=NARROWED if narrowed else PLAIN,
        versions={"dipc": __version__, "torch": str(torch.__version__), "transformers": version("transformers")},
        model=program.info,
        method=program.method,
        pipeline=compiled.pipeline if isinstance(compiled, Compiled) else "",
        mlps=program.mlps,
        passes=passes,
        files={name: file_record(folder / name) for name in list_files(folder)},
    )
    # Through JSON once, so that an int given for a float is written as it will be read.
    return Manifest.model_validate_json(manifest.model_dump_json(by_alias=True))


def add_report(path: Path, name: str, report: Mapping[str, object]) -> None:
    """Keep a result as `reports/NAME.json` in an artifact, in place of an earlier one of that name.

    Interrupted at any moment, the artifact still loads: with the earlier report, with none, or with the new one.
    A number that is not finite is kept as text (`"inf"`).

    Raises UsageError for a name that cannot be a file's or a folder that cannot be written, BadFile for no artifact.
    """
    path = Path(path)
    key, content = f"reports/{_checked(name)}.json", json_bytes(report)
    if not is_artifact(path):
        raise BadFile(f"{path}: not an artifact, it has no {NAME}")
    manifest = read_manifest(path)
    with writing(path):
        (path / "reports").mkdir(exist_ok=True)
    if manifest.files.pop(key, None) is not None:
        _replace(path / NAME, manifest.to_bytes())
    _replace(path / key, content)
    manifest.files[key] = file_record(path / key)
    manifest.files = dict(sorted(manifest.files.items()))
    _replace(path / NAME, manifest.to_bytes())


def _replace(file: Path, content: bytes) -> None:
    write_whole(file, lambda part: part.write_bytes(content))
