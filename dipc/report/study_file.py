"""A study as it was written: `study.json` in its folder, or any file that `dipc study --json` gave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dipc.documents import SCHEMA, first_problem, read_json
from dipc.errors import BadFile, UsageError
from dipc.input_file import read_input
from dipc.memory.timeline import Timeline
from dipc.studies.engine.finding import Stated
from dipc.studies.study.result import Study

NAME = "study.json"
_NEEDED: dict[str, dict[str, Any]] = {
    "model": {"name": str, "bytes": float, "bits_per_weight": float},
    "device": {"name": str, "description": str},
    "text": {"name": str, "digest": str, "tokens": int, "seq_len": int, "protocol": str},
}
"""The facts that a report gives of each in any case."""


@dataclass(frozen=True)
class _Assumption:
    key: str
    value: str
    kind: str
    source: str


def read_study(path: Path) -> Study:
    """The study in a folder or a file.

    Raises:
        UsageError: there is nothing there.
        BadFile: it is no study, or one of another version.
    """
    file = study_path(path)
    try:
        found = read_json(read_input(file), file)
    except FileNotFoundError as error:
        known = "; `dipc study MODEL -o FOLDER` writes one" if file != path else ""
        raise UsageError(f"{file}: no such file{known}") from error
    return study_from_dict(found, str(file))


def study_path(path: Path) -> Path:
    """Return the file of a study, which a folder has in it."""
    return path / NAME if os.path.isdir(path) else path


def study_from_dict(found: object, where: str) -> Study:
    """A study from its dict; `where` is what errors call it. Raises BadFile."""
    if not isinstance(found, Mapping) or found.get("kind") != "study":
        kind = found.get("kind") if isinstance(found, Mapping) else None
        raise BadFile(
            f"{where}: {f'is of kind {kind!r}, not' if kind else 'is not'} a study; give what `dipc study` wrote"
        )
    if found.get("schema") != SCHEMA:
        raise BadFile(f"{where}: schema {found.get('schema')!r}, and this dipc reads {SCHEMA}; run `dipc study` again")
    try:
        listed = TypeAdapter(dict[str, list[Any]]).validate_python({"points": found.get("points", [])})
        points = [_nested(point) for point in listed["points"]]
        said = TypeAdapter(dict[str, list[str]]).validate_python({"findings": found.get("findings", [])})
        findings = [Stated(text) for text in said["findings"]]
        study = TypeAdapter(Study).validate_python({**found, "points": points, "findings": findings})
        TypeAdapter(list[Timeline]).validate_python(found.get("timelines", ()))
        TypeAdapter(list[_Assumption]).validate_python(study.device.get("assumptions", []))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadFile(f"{where}: {place}: {first['msg']}; run `dipc study` again") from error
    for part, names in _NEEDED.items():
        held = getattr(study, part)
        missing = [name for name in names if held is not None and name not in held]
        if missing:
            raise BadFile(f"{where}: {part}: no {missing[0]!r}; run `dipc study` again")
        for name in names if held is not None else ():
            _check_fact(f"{where}: {part}.{name}", held[name], names[name])
    return study


def _check_fact(where: str, value: object, kind: type) -> None:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise BadFile(f"{where}: {first_problem(error)}; run `dipc study` again") from None


def _nested(point: object) -> Any:
    """A point with its cost as an object of its own, as it is in Python."""
    if not isinstance(point, Mapping):
        return point
    return {**point, "cost": None if point.get("tokens_per_second") is None else point}
