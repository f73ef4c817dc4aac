"""Backends, as they describe themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.errors import MissingDependency
from dipc.quantities import NONE
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.backends import Backend


def backends_dict(kinds: Iterable[tuple[str, type[Backend]]]) -> JsonObject:
    """Return all backends: what each can do, and what is missing for it."""
    return document("backends", backends=[_facts(name, kind) for name, kind in kinds])


def backends_table(kinds: Iterable[tuple[str, type[Backend]]]) -> list[RenderableType]:
    """Return a row per backend."""
    found = [_facts(name, kind) for name, kind in kinds]
    rows = [(f["name"], f["summary"], ", ".join(f["abilities"]) or NONE) for f in found]
    return stack(table("", ("backend", "what it does", "can"), rows))


def backend_dict(name: str, kind: type[Backend]) -> JsonObject:
    """Return one backend, with its whole description."""
    return document("backend", **_facts(name, kind), description=inspect.cleandoc(kind.__doc__ or ""))


def backend_tables(name: str, kind: type[Backend]) -> list[RenderableType]:
    """Return the same to be read."""
    found = _facts(name, kind)
    rows = [("can", ", ".join(found["abilities"]) or NONE)]
    rows += [("flags", ", ".join(found["flags"]) or NONE), ("lowers programs by", found["lowering"] or NONE)]
    rows += [(f"to {ability}", reason) for ability, reason in found["missing"].items()]
    return stack(inspect.cleandoc(kind.__doc__ or ""), facts("", rows))


def _facts(name: str, kind: type[Backend]) -> JsonObject:
    missing = {}
    for ability in kind.abilities():
        try:
            kind().require(ability)
        except MissingDependency as error:
            missing[ability] = str(error)
    abilities, flags = list(kind.abilities()), sorted(kind.flags)
    return {
        "name": name,
        "summary": kind.summary(),
        "abilities": abilities,
        "flags": flags,
        "lowering": kind.lowering,
        "missing": missing,
    }
