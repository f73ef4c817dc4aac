"""Computations that read small weights alone, as `1 + weight` of a norm: done once, before the exporter sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from dipc.ir.program import Program

LARGEST = 8192
"""Values of a weight up to which what is computed of it is stored: as many as ONNX's own constant folding takes."""


def fold_small_weights(program: Program) -> Program:
    """The program with new weights in place of ATen nodes that read small weights and nothing else."""
    after = program.replace(graph=program.edit())
    graph, weights = after.graph, dict(after.weights)
    for node in list(graph.nodes):
        read = node.all_input_nodes
        if node.op != "call_function" or not _is_aten(node) or not read:
            continue
        if any(n.op != "get_attr" or weights[str(n.target)].numel() > LARGEST for n in read):
            continue
        value = _computed(node, weights)
        if not isinstance(value, Tensor) or value.numel() > LARGEST:
            continue
        same = next((n for n in read if value is weights[str(n.target)]), None)
        if same is None:
            name = _new_name(str(read[0].target), weights)
            weights[name] = value.contiguous()
            with graph.inserting_before(node):
                same = graph.get_attr(name)
        node.replace_all_uses_with(same)
        graph.erase_node(node)
    return after.replace(graph=graph, weights=weights)


def _is_aten(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def _computed(node: fx.Node, weights: dict[str, Tensor]) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: weights[str(n.target)])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _new_name(name: str, weights: dict[str, Tensor]) -> str:
    count = 1
    while f"{name}_folded_{count}" in weights:
        count += 1
    return f"{name}_folded_{count}"
