"""Weights in another form than one matrix, and how the graph reads them after.

A weight keeps its place in the graph: the node that makes it of its parts stands where it stood, before its first
reader.

A table that embeds tokens and is also the matrix of a linear layer (a tied head, as in Llama-3.2-1B) is stored twice
where a pass rounds it: lookups keep it at its width, and the head reads a copy in the other form. A token reads one row
of the table but all of the head, which at 16 bits is a good part of what a small INT4 model reads; rounding the lookups
would save room and no time, at the cost of precision. ONNX Runtime GenAI's model builder stores such models so too,
unless it is asked for `shared_embeddings`. Where the codes are what the model is (`dipc.frontend.stored_codes`),
lookups take their rows from them, and nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from dipc.ir.codes import QuantizedTensor
from dipc.ir.operator import Operator, argument, has_argument
from dipc.ir.operators import OPERATORS, matrices_of
from dipc.ir.printer import op_name
from dipc.ir.program import Program
from dipc.ir.weight_parts import copy_of, part_of

EMBEDDING = torch.ops.aten.embedding.default


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight in parts.

    Attributes:
        operator: what makes the matrix of them.
        parts: its tensors by argument; those that are None need not be named.
        options: the operator's other arguments.
        lookup: what gives rows of the matrix, of the same parts and its own options; where it is None, lookups keep the
            weight as it is.
    """

    operator: Operator
    parts: Mapping[str, Tensor | None]
    options: Mapping[str, Any] = field(default_factory=dict)
    lookup: Operator | None = None

    @classmethod
    def of_codes(cls, tensor: QuantizedTensor, dtype: torch.dtype, *, lookups: bool = False) -> StoredWeight:
        """Codes that `dequantize` makes a matrix of `dtype` of, and of which `lookups` take rows."""
        options = {"bits": tensor.bits, "group": tensor.group, "axis": tensor.axis, "dtype": dtype}
        rows = OPERATORS.get("dequantize-rows") if lookups and tensor.axis == 1 else None
        return cls(OPERATORS.get("dequantize"), tensor.parts, options, rows)


def store(programs: Iterable[Program], made: Mapping[str, StoredWeight], *, beside: bool = False) -> list[Program]:
    """The programs with weights in their new forms.

    Where a weight stays too, for lookups or (`beside`) in another program, the new form is named as a copy.
    """
    programs = list(programs)
    readers = readers_of(programs)
    kept = {n for n, form in made.items() if form.lookup is None and any(r.target is EMBEDDING for r in readers[n])}
    stems = {name: copy_of(name) if beside or name in kept else name for name in made}
    return [_rewritten(program, made, stems) for program in programs]


def _rewritten(program: Program, made: Mapping[str, StoredWeight], stems: Mapping[str, str]) -> Program:
    graph, weights = program.edit(), dict(program.weights)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in [n for n in graph.nodes if n.op == "get_attr" and n.target in made]:
        stored, stem = made[str(node.target)], stems[str(node.target)]
        lookups = [user for user in node.users if user.target is EMBEDDING]
        products = [user for user in node.users if user.target is not EMBEDDING]
        for user in lookups if stored.lookup else ():
            with graph.inserting_before(user):
                value = _call(graph, weights, stem, stored, stored.lookup, indices=argument(user, "indices"))
            value.meta = {"module": user.meta.get("module", "")}
            user.replace_all_uses_with(value)
            graph.erase_node(user)
        if products:
            # Not where the weight stood: all matrices would be held in full at once.
            first = min(products, key=order.__getitem__)
            with graph.inserting_before(first):
                value = _call(graph, weights, stem, stored, stored.operator)
            value.meta = {"module": first.meta.get("module", "")}
            for user in products:
                user.replace_input_with(node, value)
        if not node.users:  # a method may have had no use for it before
            graph.erase_node(node)
    return program.replace(graph=graph, weights=weights)


def _call(
    graph: fx.Graph,
    weights: dict[str, Tensor],
    stem: str,
    stored: StoredWeight,
    operator: Operator | None,
    **others: fx.Node,
) -> fx.Node:
    """The node that makes the matrix, or rows of it, its parts put among the weights.

    Arguments are given by position, and those at the end that are at their defaults not at all.
    """
    assert operator is not None
    given: dict[str, Any] = {**stored.options, **others}
    for part, value in stored.parts.items():
        if value is not None:
            weights[part_of(stem, part)] = value
        given[part] = None if value is None else graph.get_attr(part_of(stem, part))
    arguments = [given.get(name, default) for name, default in operator.defaults.items()]
    while arguments and arguments[-1] is None:
        arguments.pop()
    return graph.create_node("call_function", operator.target, tuple(arguments), name=operator.name)


def readers_of(programs: Iterable[Program]) -> dict[str, list[fx.Node]]:
    """Weight -> the nodes that take it, in all graphs."""
    found: dict[str, list[fx.Node]] = {}
    for node in (n for program in programs for n in program.graph.nodes if n.op == "get_attr"):
        found.setdefault(str(node.target), []).extend(node.users)
    return found


def codes_of(value: fx.Node, weights: Mapping[str, Tensor]) -> QuantizedTensor:
    """The codes that a node makes a matrix of, or rows of one."""
    parts = {name: argument(value, name) for name in ("codes", "scales", "zeros", "minima")}
    codes, scales, zeros, minima = (None if n is None else weights[str(n.target)] for n in parts.values())
    assert codes is not None and scales is not None
    axis = argument(value, "axis") if has_argument(value, "axis") else 1
    return QuantizedTensor(codes, scales, zeros, argument(value, "bits"), argument(value, "group"), axis, minima)


def values_of(tensor: QuantizedTensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes stand for."""
    stored = StoredWeight.of_codes(tensor, dtype)
    made: Tensor = stored.operator.target(**{**stored.parts, **stored.options})
    return made


def put_codes(
    graph: fx.Graph, weights: dict[str, Tensor], name: str, tensor: QuantizedTensor, dtype: torch.dtype
) -> fx.Node:
    """The node, at the graph's place of insertion, that makes a matrix of codes, which become the weight's."""
    stored = StoredWeight.of_codes(tensor, dtype)
    return _call(graph, weights, name, stored, stored.operator)


def other_reader(weight: str, readers: Iterable[fx.Node]) -> str | None:
    """Say which node takes a weight as something else than the matrix of a linear layer or a table; None if none."""
    others = (n for n in readers if n.target is not EMBEDDING and not _multiplies(n, weight))
    first = next(others, None)
    return None if first is None else f"{op_name(first.target)} reads it, which is no linear layer"


def _multiplies(node: fx.Node, name: str) -> bool:
    """Return whether a node is a linear layer that takes the weight as a matrix, and as nothing else."""
    matrices = [argument(node, a) for a in matrices_of(node)]
    return _times(name, matrices) == _times(name, (*node.args, *node.kwargs.values())) > 0


def _times(name: str, values: Iterable[object]) -> int:
    return sum(isinstance(v, fx.Node) and v.op == "get_attr" and v.target == name for v in values)
