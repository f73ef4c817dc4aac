"""The reason why an MLP that is nearly gated is not outlined, in words: its activation, or what stands in between."""

from __future__ import annotations

import torch
from torch import fx

from dipc.ir.pattern import Mismatch
from dipc.ops.glu import ACTIVATIONS

_ATEN = torch.ops.aten
_LINEAR, _MUL = _ATEN.linear.default, _ATEN.mul.Tensor
_FAR = 16
"""Nodes that an activation, or a norm after the product, may have."""
_MATCHED = 3
"""Nodes of a pattern that are there: the last linear, the product and one of its sides."""

# Operators that an activation is spelled with -> what it is called.
NAMES = {
    frozenset({"relu", "pow"}): "relu2 (the square of relu)",
    frozenset({"relu", "square"}): "relu2 (the square of relu)",
    frozenset({"tanh"}): "tanh",
    frozenset({"sigmoid"}): "sigmoid",
    frozenset({"sigmoid", "mul"}): "quick_gelu (x times the sigmoid of a multiple of x)",
    frozenset({"silu", "mul"}): "silu of the gate times a constant",
}


def near_glu(down: fx.Node) -> Mismatch | None:
    """Say why the product before a linear is no gated MLP's, if it is nearly one; None if it is nothing like it."""
    product = down.args[0]
    if not _calls(product, _MUL):
        return None
    assert isinstance(product, fx.Node)
    where = str(down.meta.get("module", ""))
    found = _activation(product)
    if found is not None:
        last, spelled = found
        names = frozenset(_short(n) for n in spelled)
        called = NAMES.get(names, " and ".join(sorted(names)))
        return Mismatch(
            f"its activation is {called}, and dipc has {', '.join(ACTIVATIONS)}", where, last.name, _MATCHED
        )
    for node in _before(product):
        if _calls(node, _MUL) and _activation(node) is not None:
            return Mismatch(
                "other steps stand between the product of gate and up and the last linear", where, node.name, _MATCHED
            )
    return None


def _activation(product: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """The activation's last node and all of its nodes, where a product is one of an activated linear and a linear."""
    sides = product.args[:2]
    for gate, up in (sides, sides[::-1]):
        if not _calls(up, _LINEAR) or not isinstance(gate, fx.Node) or _calls(gate, _LINEAR):
            continue
        spelled = _before(gate, itself=True)
        sources = {a for n in spelled for a in n.all_input_nodes if a not in spelled and a.op == "call_function"}
        if spelled and len(spelled) < _FAR and len(sources) == 1 and up not in sources:
            return gate, spelled
    return None


def _before(node: fx.Node, *, itself: bool = False) -> list[fx.Node]:
    """The nodes that one is computed from, back to linears, which are left out; at most so many."""
    found: list[fx.Node] = []
    open_ = [node] if itself else list(node.all_input_nodes)
    while open_ and len(found) < _FAR:
        here = open_.pop(0)
        if here.op == "call_function" and here.target is not _LINEAR and here not in found:
            found.append(here)
            open_ += here.all_input_nodes
    return found


def _calls(node: object, target: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def _short(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema else str(getattr(node.target, "__name__", node.target))
