"""The common part of the passes that store weights in another form: which matrices, and how the graph reads them after.

A weight keeps its place in the graph: the node that makes it of its parts stands where it stood, before its first
reader.

A table that embeds tokens and is also the matrix of a linear layer (a tied head, as in Llama-3.2-1B) is then stored
twice: lookups keep it at its width, and the head reads a copy in the other form. A token reads one row of the table but
all of the head, which at 16 bits is a good part of what a small INT4 model reads; rounding the lookups would save room
and no time, at the cost of precision. ONNX Runtime GenAI's model builder stores such models so too, unless it is asked
for `shared_embeddings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from dipc.errors import UsageError
from dipc.ir.operator import Operator, argument, has_argument, is_dequantized, is_unmasked
from dipc.ir.operators import matrices_of
from dipc.ir.pattern import Mismatch
from dipc.ir.printer import op_name
from dipc.ir.program import Program, is_buffer
from dipc.ir.weight_parts import copy_of, part_of, values_per_entry, weight_of

Weights = Literal["all", "mlp"]
EMBEDDING = torch.ops.aten.embedding.default


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight in parts.

    Attributes:
        operator: what makes the matrix of them.
        parts: its tensors by argument, None where it has none, in the order of the operator's arguments.
        options: the arguments after them.
    """

    operator: Operator
    parts: Mapping[str, Tensor | None]
    options: tuple[Any, ...] = ()


def choose(
    programs: Iterable[Program], about: Weights, obstacle: Callable[[str, Tensor], str | None]
) -> tuple[dict[str, Tensor], tuple[Mismatch, ...]]:
    """The matrices of linear layers that can be stored in another form, and the others with the reason.

    Args:
        programs: of which the weights are.
        about: all linear layers, or those of the gated MLPs.
        obstacle: why a pass leaves a matrix that nothing else speaks against, or None.
    """
    programs = list(programs)
    mlps = {name for program in programs for m in program.mlps for name in (m.gate, m.up, m.down)}
    readers = _readers(programs)
    chosen: dict[str, Tensor] = {}
    skipped: dict[str, Mismatch] = {}
    for program in programs:
        held = values_per_entry(program.graph)
        for name, weight in program.weights.items():
            wanted = about == "all" or weight_of(name) in mlps
            if not wanted or weight.dim() != 2 or is_buffer(name) or held.get(name) == 0:
                continue
            reason = _obstacle(name, weight, readers[name]) or obstacle(name, weight)
            if reason is None:
                chosen[name] = weight
            else:
                skipped[name] = Mismatch(reason, weight_of(name).removesuffix(".weight"))
    return chosen, tuple(skipped.values())


def _obstacle(name: str, weight: Tensor, readers: list[fx.Node]) -> str | None:
    if any(is_dequantized(n) for n in readers):
        return "it is quantised already"
    if any(is_unmasked(n) for n in readers):
        return "it is pruned already"
    if readers and all(n.target is EMBEDDING for n in readers):
        return "it is a table of which rows are looked up"
    others = [n for n in readers if n.target is not EMBEDDING and not _multiplies(n, name)]
    if others:
        return f"{op_name(others[0].target)} reads it, which is no linear layer"
    if not weight.is_floating_point():
        return f"its values are {str(weight.dtype).removeprefix('torch.')}, not floating"
    if weight.device.type != "meta" and not bool(weight.isfinite().all()):
        return "some of its values are not finite"
    return None


def check_not_packed(name: str, program: Program) -> None:
    """UsageError where a pass of that name comes after matrices were packed."""
    for node in program.graph.nodes:
        if has_argument(node, "units") and has_argument(node, "bits") and not argument(node, "bits"):
            raise UsageError(f"{name}: %{node.name} reads a matrix that is packed; put {name} before pack")


def store(programs: Iterable[Program], made: Mapping[str, StoredWeight], *, beside: bool = False) -> list[Program]:
    """The programs with weights in their new forms.

    Where a weight stays too, for lookups or (`beside`) in another program, the new form is named as a copy.
    """
    programs = list(programs)
    readers = _readers(programs)
    stems = {n: copy_of(n) if beside or any(r.target is EMBEDDING for r in readers[n]) else n for n in made}
    return [_rewritten(program, made, stems) for program in programs]


def _rewritten(program: Program, made: Mapping[str, StoredWeight], stems: Mapping[str, str]) -> Program:
    graph, weights = program.edit(), dict(program.weights)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in [n for n in graph.nodes if n.op == "get_attr" and n.target in made]:
        name = str(node.target)
        if not node.users:  # a method had no use for it
            graph.erase_node(node)
            continue
        products = [user for user in node.users if user.target is not EMBEDDING]
        if not products:
            continue
        # Not where the weight stood: all matrices would be held in full at once.
        first = min(products, key=order.__getitem__)
        with graph.inserting_before(first):
            value = _call(graph, weights, stems[name], made[name])
        value.meta = {"module": first.meta.get("module", "")}
        for user in products:
            user.replace_input_with(node, value)
        if not node.users:
            graph.erase_node(node)
    return program.replace(graph=graph, weights=weights)


def _call(graph: fx.Graph, weights: dict[str, Tensor], stem: str, stored: StoredWeight) -> fx.Node:
    """The node that makes the matrix, its parts put among the weights."""
    nodes: list[fx.Node | None] = []
    for part, value in stored.parts.items():
        if value is not None:
            weights[part_of(stem, part)] = value
        nodes.append(None if value is None else graph.get_attr(part_of(stem, part)))
    arguments = (*nodes, *stored.options)
    return graph.create_node("call_function", stored.operator.target, arguments, name=stored.operator.name)


def _readers(programs: Iterable[Program]) -> dict[str, list[fx.Node]]:
    """Weight -> the nodes that take it, in all graphs."""
    found: dict[str, list[fx.Node]] = {}
    for node in (n for program in programs for n in program.graph.nodes if n.op == "get_attr"):
        found.setdefault(str(node.target), []).extend(node.users)
    return found


def _multiplies(node: fx.Node, name: str) -> bool:
    """Return whether a node is a linear layer that takes the weight as a matrix, and as nothing else."""
    matrices = [argument(node, a) for a in matrices_of(node)]
    return _times(name, matrices) == _times(name, (*node.args, *node.kwargs.values())) > 0


def _times(name: str, values: Iterable[object]) -> int:
    return sum(isinstance(v, fx.Node) and v.op == "get_attr" and v.target == name for v in values)
