"""Patterns: a Python function, traced, matched against a program's graph from its result upwards.

A pattern is written as the computation it finds, over parameters that bind to whatever stands there:

    def swiglu(x, gate, up, down):
        return linear(silu(linear(x, gate)) * linear(x, up), down)

Matching is exact on operators and on constants, tries both orders of commutative products, and says why and where it
failed. A parameter whose name starts with `bias` also matches an argument that was left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    """Why a place was not matched: a reason for people, the module it is in, the node where matching stopped.

    `matched` is how many nodes of the pattern had been found by then: of several patterns, the most is the nearest.
    """

    reason: str
    where: str
    node: str = ""
    matched: int = field(default=0, compare=False, metadata={"json": False})

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" (at %{self.node})" if self.node else "")


@dataclass(frozen=True)
class _Failure:
    reason: str
    node: fx.Node
    matched: int

    def mismatch(self) -> Mismatch:
        return Mismatch(self.reason, str(self.node.meta.get("module", "")), self.node.name, self.matched)


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
        failures: list[_Failure] = []
        found = next(_match(self.root, node, {}, (), failures), None)
        if found is None:
            return max(failures, key=lambda f: f.matched).mismatch()
        bound, nodes = found
        for body in nodes:
            outside = [u for u in body.users if u not in nodes]
            if body is not node and outside:
                return _Failure(f"its result is also used by %{outside[0].name}", body, len(nodes)).mismatch()
        return Match(node, bound, nodes)


State = tuple[dict[str, Any], tuple[fx.Node, ...]]


def _match(
    pattern: Any, value: Any, bound: dict[str, Any], nodes: tuple[fx.Node, ...], failures: list[_Failure]
) -> Iterator[State]:
    """Every way to match. `failures` gathers the others, each with how many nodes had matched until it failed."""
    if isinstance(pattern, fx.Node) and pattern.op == "placeholder":
        name = str(pattern.target)
        if name in bound and bound[name] is not value:
            at = value if isinstance(value, fx.Node) else bound[name]
            failures.append(_Failure(f"{name} is not the same value in both places", at, len(nodes)))
        else:
            yield {**bound, name: value}, nodes
    elif not isinstance(pattern, fx.Node):
        if pattern != value:
            failures.append(_Failure(f"expected the constant {pattern}, found {value}", nodes[-1], len(nodes)))
        else:
            yield bound, nodes
    elif not isinstance(value, fx.Node) or value.target is not pattern.target:
        found = value.target if isinstance(value, fx.Node) else value
        at = value if isinstance(value, fx.Node) else nodes[-1]
        failures.append(_Failure(f"expected {pattern.target}, found {found}", at, len(nodes)))
    else:
        wanted, given = _arguments(pattern), _arguments(value)
        orders = [wanted]
        if pattern.target in COMMUTATIVE:
            orders.append([wanted[1], wanted[0], *wanted[2:]])
        for order in orders:
            pairs = list(zip(order, given, strict=True))
            yield from _match_all(pairs, (bound, (*nodes, value)), failures)


def _match_all(pairs: list[tuple[Any, Any]], state: State, failures: list[_Failure]) -> Iterator[State]:
    """Every way to match all pairs: what the first pair bound must suit the rest, or its next way is tried."""
    if not pairs:
        yield state
        return
    for after in _match(*pairs[0], *state, failures):
        yield from _match_all(pairs[1:], after, failures)


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
