"""The operators by name: the files of `dipc/ops` and what plug-ins add. Passes and backends meet in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import fx

from dipc.errors import BadFile
from dipc.ir.operator import Operator, Read, operator_of
from dipc.registry import ModuleRegistry, name_of_module, register_kind

LINEAR = torch.ops.aten.linear.default
"""Torch's linear layer, the one matrix product that is no operator of dipc."""
_OF_LINEAR = {"weight": "input"}


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
    """Return what a graph node calls: `target("gather_linear")`."""
    return OPERATORS.get(name.replace("_", "-")).target


def matrices_of(node: fx.Node) -> Mapping[str, str | Callable[..., Any]]:
    """Return the arguments of a node that are matrices of linear layers, as `Operator.matrices` has them."""
    if node.target is LINEAR:
        return _OF_LINEAR
    operator = operator_of(node.target)
    return {} if operator is None else operator.matrices


__all__ = ["LINEAR", "OPERATORS", "Operator", "Read", "matrices_of", "operator_of", "target"]
