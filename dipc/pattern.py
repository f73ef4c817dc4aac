"""Patterns: a Python function, traced, matched against a program's graph from its result upwards.

A pattern is written as the computation it finds, over parameters that bind to whatever stands there:

    def swiglu(x, gate, up, down):
        return linear(silu(linear(x, gate)) * linear(x, up), down)

Matching is exact on operators and on constants, tries both orders of commutative products, and says why and where it
failed. A parameter whose name starts with `bias` also matches an argument that was left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

COMMUTATIVE = (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor)


@dataclass(frozen=True)
class Match:
    """Where a pattern was found: what each parameter bound to, and the graph nodes that are the pattern's body."""

    root: fx.Node
    bound: dict[str, Any]
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Mismatch:
    """Why a place was not matched: a reason for people, the module it is in, the node where matching stopped."""

    reason: str
    where: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" (at %{self.node})" if self.node else "")


class _Failed(Exception):
    def __init__(self, reason: str, node: fx.Node, depth: int) -> None:
        self.reason, self.node, self.depth = reason, node, depth


class Pattern:
    """A traced function, ready to be matched."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.parameters = tuple(inspect.signature(function).parameters)
        self.graph = fx.Tracer().trace(function)
        output = next(n for n in self.graph.nodes if n.op == "output")
        self.root: fx.Node = output.args[0]

    def match(self, node: fx.Node) -> Match | Mismatch:
        """Match with the pattern's result at `node`; every inner node must be used by the pattern alone."""
        try:
            bound, nodes = _match(self.root, node, {}, (), 0)
            inner = set(nodes)
            for body in nodes:
                outside = [u for u in body.users if u not in inner]
                if body is not node and outside:
                    raise _Failed(f"its result is also used by %{outside[0].name}", body, 0)
        except _Failed as failed:
            return Mismatch(failed.reason, str(failed.node.meta.get("module", "")), failed.node.name)
        return Match(node, bound, nodes)


State = tuple[dict[str, Any], tuple[fx.Node, ...]]


def _match(pattern: Any, value: Any, bound: dict[str, Any], nodes: tuple[fx.Node, ...], depth: int) -> State:
    if isinstance(pattern, fx.Node) and pattern.op == "placeholder":
        name = str(pattern.target)
        if name in bound and bound[name] is not value:
            at = value if isinstance(value, fx.Node) else bound[name]
            raise _Failed(f"{name} is not the same value in both places", at, depth)
        return {**bound, name: value}, nodes
    if not isinstance(pattern, fx.Node):
        if pattern != value:
            raise _Failed(f"expected the constant {pattern}, found {value}", nodes[-1], depth)
        return bound, nodes
    if not isinstance(value, fx.Node) or value.target is not pattern.target:
        found = value.target if isinstance(value, fx.Node) else value
        at = value if isinstance(value, fx.Node) else nodes[-1]
        raise _Failed(f"expected {pattern.target}, found {found}", at, depth)
    wanted, given = _arguments(pattern), _arguments(value)
    orders = [wanted]
    if pattern.target in COMMUTATIVE:
        orders.append([wanted[1], wanted[0], *wanted[2:]])
    failures: list[_Failed] = []
    for order in orders:
        try:
            state: State = (bound, (*nodes, value))
            for inner_pattern, inner_value in zip(order, given, strict=True):
                state = _match(inner_pattern, inner_value, *state, depth + 1)
            return state
        except _Failed as failed:
            failures.append(failed)
    raise max(failures, key=lambda f: f.depth)


def _arguments(node: fx.Node) -> list[Any]:
    """All arguments in the schema's order, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return [*node.args, *node.kwargs.values()]
    values = []
    for index, parameter in enumerate(schema.arguments):
        if index < len(node.args):
            values.append(node.args[index])
        elif parameter.name in node.kwargs:
            values.append(node.kwargs[parameter.name])
        else:
            values.append(parameter.default_value if parameter.has_default_value() else None)
    return values
