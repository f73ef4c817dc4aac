"""Operators, as they describe themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.quantities import NONE
from dipc.report.table import facts, stack, table

if TYPE_CHECKING:
    from dipc.ir.operator import Operator


def operators_dict(found: Iterable[tuple[str, Operator]]) -> JsonObject:
    """Return all operators with their schema and facets."""
    return document("operators", operators=[_facts(name, operator) for name, operator in found])


def operators_table(found: Iterable[tuple[str, Operator]]) -> list[RenderableType]:
    """Return a row per operator."""
    known = [_facts(name, operator) for name, operator in found]
    rows = [(f["name"], f["summary"], _yes(f["kernel"]), _yes(f["onnx"])) for f in known]
    return stack(table("", ("operator", "what it computes", "native\nkernel", "ONNX\nform"), rows))


def operator_dict(name: str, operator: Operator) -> JsonObject:
    """Return one operator, with its whole description."""
    return document("operator", **_facts(name, operator), description=_doc(operator))


def operator_tables(name: str, operator: Operator) -> list[RenderableType]:
    """Return the same to be read."""
    found = _facts(name, operator)
    rows = [("call", found["signature"]), ("native kernel", _yes(found["kernel"])), ("ONNX form", _yes(found["onnx"]))]
    return stack(_doc(operator), facts("", rows))


def _facts(name: str, operator: Operator) -> JsonObject:
    return {
        "name": name,
        "summary": _doc(operator).partition("\n")[0] or NONE,
        "signature": f"dipc::{operator.name}{operator.schema}",
        "kernel": operator.kernel is not None,
        "onnx": operator.onnx is not None,
    }


def _doc(operator: Operator) -> str:
    return inspect.cleandoc(operator.reference.__doc__ or "")


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
