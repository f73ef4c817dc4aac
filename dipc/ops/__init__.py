"""The operators that passes and backends meet in. One file each; see README.md."""

from __future__ import annotations

from types import ModuleType

from dipc.ops.operator import Operator, Read
from dipc.registry import Registry, register_kind


def _find(module: ModuleType) -> Operator | None:
    found = vars(module).get("OPERATOR")
    return found if isinstance(found, Operator) else None


OPERATORS: Registry[Operator] = register_kind(Registry("operator", "dipc.ops", _find, frozenset({"operator"})))


def target(name: str) -> object:
    """What a graph node calls: `target("gather_linear")`."""
    return OPERATORS.get(name.replace("_", "-")).target


def operator_of(node_target: object) -> Operator | None:
    """The operator that a node's target is, or None for ATen and Python operators."""
    if getattr(node_target, "namespace", None) != "dipc":
        return None
    name = str(node_target._schema.name).removeprefix("dipc::")  # type: ignore[attr-defined]
    return OPERATORS.get(name.replace("_", "-"))


def load_all() -> None:
    """Import every operator, so that torch knows them all (needed before a saved graph is read)."""
    for name in OPERATORS.names():
        OPERATORS.get(name)


__all__ = ["OPERATORS", "Operator", "Read", "load_all", "operator_of", "target"]
