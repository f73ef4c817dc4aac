"""JSON documents: what a result is written as, and how a file that somebody else may have written is read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from dipc.errors import BadFile
from dipc.version import __version__

if TYPE_CHECKING:
    from pydantic import ValidationError

SCHEMA = 1
JsonObject = dict[str, Any]
"""A JSON object, its values of any kind that JSON has."""


def document(kind: str, **content: object) -> JsonObject:
    """Return a result's dict: its schema, what it is, the version that made it, then its content."""
    return {"schema": SCHEMA, "kind": kind, "dipc": __version__, **json_value(content)}


def json_value(value: object) -> Any:
    """Return dataclasses, tuples and mappings as JSON holds them; a float that is not finite becomes its name.

    A field whose metadata say `json=False` is left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = (f.name for f in dataclasses.fields(value) if f.metadata.get("json", True))
        return {name: json_value(getattr(value, name)) for name in told}
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def json_bytes(content: Mapping[str, object]) -> bytes:
    """Return readable JSON; a number that is not finite becomes its name."""
    text = json.dumps(json_value(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is no Unicode becomes the escapes that JSON has for it.
    return (text + "\n").encode("utf-8", "backslashreplace")


def read_json(raw: bytes | str, where: object) -> JsonObject:
    """Return a JSON object from bytes or text; BadFile, with `where` in front, for everything else."""
    try:
        data = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise BadFile(f"{where}: not valid JSON: {reason[:200]}") from None
    if not isinstance(data, dict):
        raise BadFile(f"{where}: must hold a JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def first_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a file, as one line: where and what."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:80] for part in problem["loc"])
    what = "unknown key" if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument") else problem["msg"]
    return f"{where}: {what[:1].lower()}{what[1:]}" if where else what
