"""Passes and their options, as their docstrings describe them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.quantities import NONE
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.pipeline.pass_ import Pass

_ENTRY = re.compile(r"(\w+): (.*)")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass. `required` has no default."""

    name: str
    type: str
    default: Any
    required: bool
    meaning: str


def summary(kind: type[Pass]) -> str:
    """The first paragraph of the pass's own docstring, or an empty text."""
    text = inspect.cleandoc(vars(kind).get("__doc__") or "")
    first = " ".join(text.split("\n\n")[0].split())
    # A dataclass without a docstring is given its signature.
    return "" if first.startswith(f"{kind.__name__}(") else first


def options(kind: type[Pass]) -> list[Option]:
    """The options in the order of the class, described by the Attributes sections of the class and its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        meanings |= attributes(inspect.cleandoc(vars(base).get("__doc__") or ""))
    hints = get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        found.append(Option(field.name, type_text(hints[field.name]), default, required, meanings.get(field.name, "")))
    return found


def attributes(docstring: str) -> dict[str, str]:
    """Name -> meaning, from the section `Attributes:` of a docstring whose indentation was removed."""
    _, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        entry = _ENTRY.fullmatch(line.strip()) if line.startswith("    ") and line[4:5].strip() else None
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def type_text(hint: Any) -> str:
    """A type as the pipeline text takes it: `number`, `text`, `all | decode`; None shows as the default."""
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(type_text(a) for a in get_args(hint) if a is not type(None))
    names = {float: "number", int: "whole number", str: "text", bool: "true | false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def passes_dict(kinds: Iterable[tuple[str, type[Pass]]]) -> JsonObject:
    """All passes with their options."""
    return document("passes", passes=[_pass(name, kind) for name, kind in kinds])


def pass_info_dict(name: str, kind: type[Pass]) -> JsonObject:
    """One pass with its options."""
    return document("pass", **_pass(name, kind))


def _pass(name: str, kind: type[Pass]) -> JsonObject:
    return {
        "name": name,
        "summary": summary(kind),
        "requires": list(kind.requires),
        "tolerance": kind.tolerance,
        "options": options(kind),
    }


def passes_table(kinds: Iterable[tuple[str, type[Pass]]]) -> list[RenderableType]:
    """A row per pass."""
    return stack(table("", ("pass", "what it does"), [(name, summary(kind)) for name, kind in kinds]))


def pass_info_tables(name: str, kind: type[Pass]) -> list[RenderableType]:
    """One pass: what it does, what it needs, its options."""
    rows = [(o.name, o.type, "required" if o.required else value_text(o.default), o.meaning) for o in options(kind)]
    about = [
        ("does", summary(kind)),
        ("runs after", ", ".join(kind.requires) or NONE),
        ("tolerance", f"{kind.tolerance:g} of the largest logit, where it keeps everything"),
    ]
    return stack(facts(name, about), table("options", ("option", "type", "default", "meaning"), rows) if rows else None)


def value_text(value: object) -> str:
    """An option's value as the pipeline text has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def plan_dict(model: JsonObject, pipeline: str, passes: Iterable[Pass]) -> JsonObject:
    """Give what a compilation would do."""
    planned = [{"name": p.name, "options": {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}} for p in passes]
    return document("plan", model=model, pipeline=pipeline, passes=planned)


def plan_tables(model: JsonObject, pipeline: str, passes: Iterable[Pass]) -> list[RenderableType]:
    """The model, and every pass with all its options, whether given or default."""
    rows = []
    for item in passes:
        given = [(f.name, getattr(item, f.name), f.default) for f in dataclasses.fields(item)]
        rows += [(item.name, n, value_text(v), "default" if v == d else "given") for n, v, d in given]
        rows += [] if given else [(item.name, NONE, NONE, NONE)]
    return stack(
        facts("would compile", [*((k, str(v)) for k, v in model.items()), ("pipeline", pipeline)]),
        table("passes", ("pass", "option", "value", "from"), rows),
    )
