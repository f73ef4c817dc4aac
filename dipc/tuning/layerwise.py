"""Run a program over many windows at once, node by node: only what is still to be read is in memory.

Every node is computed for all windows before the next, so that a layer's weights are needed once, a change of them
takes effect from there on, and what a layer reads can be observed over the whole text. What is kept of each window is
the frontier: values that a later node reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from dipc.errors import UsageError
from dipc.ir.placement import device_of
from dipc.ir.program import Port, Program
from dipc.ir.verify import empty_port


@dataclass
class Frontier:
    """The values that are live in a run: of every window, and of weights that were replaced."""

    program: Program
    windows: int
    values: dict[fx.Node, list[Any]] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)

    def of(self, node: fx.Node) -> list[Tensor]:
        """A live value, window by window; of a weight, the same each time."""
        if node.op == "get_attr":
            return [self.weight(str(node.target))] * self.windows
        return self.values[node]

    def weight(self, name: str) -> Tensor:
        """A weight as the nodes that are still to come will read it."""
        return self.replaced[name] if name in self.replaced else self.program.weights[name]

    def replace(self, name: str, weight: Tensor) -> None:
        """Let the node that is visited, and all after it, read this weight instead."""
        self.replaced[name] = weight


Visit = Callable[[fx.Node, Frontier], None]


@torch.no_grad()
def run_layerwise(
    program: Program, windows: Tensor, visit: Visit | None = None, *, until: fx.Node | None = None
) -> list[Tensor]:
    """Run a program over windows of tokens, each from an empty cache, node after node.

    Args:
        program: with weights; it is not changed.
        windows: i64 [N, T].
        visit: called with every node that computes something, before it does; what the node takes is live.
        until: visit this node, but compute neither it nor what comes after; by default everything is computed.

    Returns:
        The logits [T, V] of each window; nothing with `until`.

    Raises:
        UsageError: the program was captured from a config alone, or the windows are longer than its context.
    """
    info = program.info
    if not info.has_weights:
        raise UsageError(f"{info.name} was captured from a config alone: it has no weights to run with")
    if windows.shape[1] > info.context:
        raise UsageError(f"windows of {windows.shape[1]} tokens are longer than the context of {info.context}")
    outputs: Any = program.graph.output_node().args[0]
    logits: fx.Node = outputs[0]
    wanted = needed(logits if until is None else until)
    last = last_reads(program.graph, wanted)
    ports = {port.name: port for port in program.inputs}
    live = Frontier(program, len(windows))
    for node in program.graph.nodes:
        if node not in wanted or node.op == "get_attr":
            continue
        if node.op == "placeholder":
            live.values[node] = [_given(ports[node.name], ids, program) for ids in windows]
            continue
        if visit is not None:
            visit(node, live)
        if node is until:
            return []
        live.values[node] = _computed(node, live)
        for dead in last.get(node, ()):
            live.values.pop(dead, None)
            live.replaced.pop(str(dead.target), None)
    return [value[0].float() for value in live.values[logits]]


def needed(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    found, waiting = {node}, [node]
    while waiting:
        fresh = set(waiting.pop().all_input_nodes) - found
        found |= fresh
        waiting += fresh
    return found


def last_reads(graph: fx.Graph, wanted: set[fx.Node]) -> Mapping[fx.Node, Sequence[fx.Node]]:
    """Node -> what no later one of the wanted nodes reads; a weight that has several nodes is read by the last."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[Any] = set()
    for node in reversed(graph.nodes):
        for value in node.all_input_nodes if node in wanted else ():
            key = value.target if value.op == "get_attr" else value
            if key not in seen:
                seen.add(key)
                found.setdefault(node, []).append(value)
    return found


def _given(port: Port, ids: Tensor, program: Program) -> Tensor:
    device = str(device_of(program))
    if port.kind == "tokens":
        return ids[None].to(device)
    if port.kind == "positions":
        return torch.arange(len(ids), device=device)[None]
    return empty_port(port, len(ids), 0, device)


def _computed(node: fx.Node, live: Frontier) -> list[Any]:
    """A node's value for each window; once for all where only weights go into it."""
    assert callable(node.target)
    windows = live.windows
    if node.all_input_nodes and all(n.op == "get_attr" for n in node.all_input_nodes):
        windows = 1
    inputs = {n: live.of(n) for n in node.all_input_nodes}
    made = []
    for i in range(windows):
        args, kwargs = map_arg((node.args, node.kwargs), lambda n, i=i: inputs[n][i])  # type: ignore[misc]
        made.append(node.target(*args, **kwargs))
    return made * (live.windows // windows)
