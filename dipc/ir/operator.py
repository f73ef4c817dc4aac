"""An operator: a name in the torch namespace `dipc` with all its facets in one file."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import fx

from dipc.ir.onnx_form import OnnxForm
from dipc.ir.signature import flat
from dipc.ir.weight_parts import TABLES

Axis = Literal["columns", "rows", "all"]

_LIBRARY = torch.library.Library("dipc", "FRAGMENT")


@dataclass(frozen=True)
class Read:
    """A weight that a node reads for every token: whole, or only the columns (or rows) that the mask keeps.

    Attributes:
        weight: its name; of a quantised weight its codes', of a pruned one its kept bits'.
        axis: what a unit is.
        mask: the node that made the mask; nodes that read by the same mask fetch their units together.
        per_unit: scales, zeros and minima of which each unit has its own column (or row), and kept values; they are
            fetched with it.
        shared: scales, zeros and minima that several units share, read whole for every token.
    """

    weight: str
    axis: Axis
    mask: fx.Node | None = None
    per_unit: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    """One operator of the waist.

    Facets that are functions take the schema's arguments, or some of them as dataclasses (`dipc.ir.signature`); as
    attributes of the operator all of them take the schema's arguments. A product's reference is also what gradients
    flow through.

    Attributes:
        name: file name and torch name, `torch.ops.dipc.<name>`.
        schema: torch's schema of arguments and results.
        reference: the meaning, in torch, short enough to be read as the definition.
        fake: the shape rule: given arguments on the meta device, results of the right shape and dtype.
        traffic: what a node reads from memory, per token.
        kernel: a faster implementation that gives the same bits, or within `tolerance`, and falls back to the reference
            where it must.
        examples: arguments for the contract tests, from a seeded generator and a size.
        onnx: what it becomes in an ONNX file; a program that calls an operator without it cannot be exported.
        tolerance: how far a product of the kernel may be from the reference's, relative to the largest; masks and state
            are the same.
        matrices: the arguments that the reference hands to torch's `linear` as its weight, and to nothing else, in the
            order of their use -> what they multiply: an argument's name, or a function of the schema's arguments that
            computes it. Such a matrix may be stored in parts, solved for, and trained.
        makes_weight_from: where the result is a weight: the argument that has an entry, or a share of one, for each of
            its values. The other parts are called as `dipc.ir.weight_parts` says.
    """

    name: str
    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    traffic: Callable[[fx.Node], tuple[Read, ...]]
    examples: Callable[[torch.Generator, int, int], list[tuple[Any, ...]]]
    kernel: Callable[..., Any] | None = None
    onnx: OnnxForm | None = None
    tolerance: float = 0.0
    matrices: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    makes_weight_from: Literal["codes", "kept"] | None = None

    def __post_init__(self) -> None:
        _LIBRARY.define(f"{self.name}{self.schema}")
        _DEFINED[f"dipc::{self.name}"] = self
        for name in ("reference", "fake", "kernel"):
            if (facet := getattr(self, name)) is not None:
                object.__setattr__(self, name, flat(facet, self.defaults))
        if self.onnx is not None:
            to_onnx = flat(self.onnx.to_onnx, self.defaults)
            object.__setattr__(self, "onnx", dataclasses.replace(self.onnx, to_onnx=to_onnx))
        _LIBRARY.impl(self.name, self.kernel or self.reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"dipc::{self.name}", self.fake, lib=_LIBRARY)

    @property
    def target(self) -> Any:
        """The function that a graph node calls."""
        return getattr(torch.ops.dipc, self.name).default

    @property
    def defaults(self) -> dict[str, Any]:
        """The schema's arguments in order, each with its default or `inspect.Parameter.empty`."""
        arguments = self.target._schema.arguments
        return {a.name: a.default_value if a.has_default_value() else inspect.Parameter.empty for a in arguments}


_DEFINED: dict[str, Operator] = {}
"""Every operator that torch knows in the namespace, by its name there."""


def operator_of(node_target: object) -> Operator | None:
    """Return the operator that a node's target is, or None for ATen and Python operators."""
    schema = getattr(node_target, "_schema", None)
    return None if schema is None else _DEFINED.get(str(schema.name))


def argument(node: fx.Node, name: str) -> Any:
    """An argument of a node by its name in the schema, whether given by position, by keyword or left at its default."""
    place = _places(node.target).get(name)
    if place is None:
        raise KeyError(f"{node.target} has no argument {name!r}")
    position, default = place
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


@cache
def _places(target: Any) -> dict[str, tuple[int, Any]]:
    """Name -> position and default of an operator's arguments; torch makes them anew whenever it is asked."""
    return {a.name: (i, a.default_value) for i, a in enumerate(target._schema.arguments)}


def has_argument(node: fx.Node, name: str) -> bool:
    """Return whether the operator that a node calls has an argument of that name."""
    return hasattr(node.target, "_schema") and name in _places(node.target)


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Change an argument of a node, by name."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    position = names.index(name)
    if position < len(node.args):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def is_dequantized(value: object) -> bool:
    """Return whether a value is a weight that a node makes of its codes, as `dequantize` does."""
    return _made_from(value) == "codes"


def is_unmasked(value: object) -> bool:
    """Return whether a value is a weight that a node makes of kept values and bits, as `unmask` does."""
    return _made_from(value) == "kept"


def is_stored_in_parts(value: object) -> bool:
    """Return whether a value is a weight that a node makes of the tensors that it is stored as."""
    return _made_from(value) is not None


def _made_from(value: object) -> str | None:
    operator = operator_of(value.target) if isinstance(value, fx.Node) else None
    return None if operator is None else operator.makes_weight_from


def weight_name(value: Any) -> str:
    """The weight that an argument names; where it is stored in parts, that of its codes or kept bits.

    Raises ValueError where the graph computes it in another way.
    """
    if (part := _made_from(value)) is not None:
        value = argument(value, part)
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return str(value.target)
    raise ValueError(f"{value} is computed by the graph; a weight was expected")


def weight_read(value: Any, axis: Axis, mask: fx.Node | None = None) -> Read:
    """The read of the weight that an argument names, with the scales and zeros of a quantised one.

    Groups along a unit give it scales of its own, which travel with it: a column has them where groups run along
    dim 0, a row where they run along dim 1. In the other direction units share their scales. Of a pruned weight the
    kept values travel with the bits that place them. Raises as `weight_name`.
    """
    if is_unmasked(value):
        return Read(weight_name(value), axis, mask, (weight_name(argument(value, "values")),))
    if not is_dequantized(value):
        return Read(weight_name(value), axis, mask)
    along_unit = argument(value, "axis") == {"columns": 0, "rows": 1}.get(axis, argument(value, "axis"))
    return quantized_read(value, argument(value, "codes"), axis, mask, along_unit)


def quantized_read(node: fx.Node, codes: fx.Node, axis: Axis, mask: fx.Node | None, along_unit: bool) -> Read:
    """The read of codes whose groups run along a unit (its scales travel with it) or across units (they stay).

    Args:
        node: which takes the codes and their tables.
        codes: these.
        axis: what a unit is.
        mask: which units are read.
        along_unit: groups run along a unit.
    """
    given = (argument(node, table) for table in TABLES if has_argument(node, table))
    tables = tuple(weight_name(t) for t in given if t is not None)
    return Read(weight_name(codes), axis, mask, *((tables, ()) if along_unit else ((), tables)))
