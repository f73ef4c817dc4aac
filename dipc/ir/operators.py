"""The operators by name: the files of `dipc/ops` and what plug-ins add. Passes and backends meet in them."""

from __future__ import annotations

from types import ModuleType

from dipc.errors import BadFile
from dipc.ir.operator import Operator, Read
from dipc.registry import ModuleRegistry, name_of_module, register_kind


def _find(module: ModuleType) -> Operator | None:
    found = vars(module).get("OPERATOR")
    if not isinstance(found, Operator):
        return None
    facets = (found.reference, found.fake, found.traffic, found.examples)
    if all(getattr(facet, "__module__", None) != module.__name__ for facet in facets):
        return None  # Imported from the operator's own file.
    # Graphs are saved with the operator's name, and it is found again by its file's.
    if found.name.replace("_", "-") != name_of_module(module):
        raise BadFile(
            f"{module.__file__}: defines the operator {found.name!r}; give the file and the operator one name"
        )
    return found


OPERATORS: ModuleRegistry[Operator] = register_kind(ModuleRegistry("operator", "dipc.ops", _find))


def target(name: str) -> object:
    """What a graph node calls: `target("gather_linear")`."""
    return OPERATORS.get(name.replace("_", "-")).target


def operator_of(node_target: object) -> Operator | None:
    """The operator that a node's target is, or None for ATen and Python operators."""
    if getattr(node_target, "namespace", None) != "dipc":
        return None
    name = str(node_target._schema.name).removeprefix("dipc::")  # type: ignore[attr-defined]
    return OPERATORS.get(name.replace("_", "-"))


__all__ = ["OPERATORS", "Operator", "Read", "operator_of", "target"]
