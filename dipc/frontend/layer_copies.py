"""The program of a whole model from a trace of its first layers: the others are copies of them.

Two layers of each kind are compared first, node by node. Where they are not the same but for their weights, as where a
layer computes with its own number, nothing is copied, and the model is to be traced in full.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from dipc.frontend.digest import model_digest
from dipc.frontend.repeated_layers import Layers
from dipc.ir.program import Port, Program
from dipc.ir.verify import verify_structure


class NotRepeated(Exception):
    """The layers of a trace are no copies of each other."""


@dataclass(frozen=True)
class _Segments:
    """The nodes of a trace before the layers, in each of them, and after."""

    before: list[fx.Node]
    layers: list[list[fx.Node]]
    after: list[fx.Node]
    layer_of: dict[fx.Node, int]


def _segments(graph: fx.Graph, layers: Layers) -> _Segments:
    made = _Segments([], [[] for _ in range(layers.prefix)], [], {})
    reached = -1
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op != "call_function":
            name = str(node.target)
            number = layers.number(name) if node.op == "get_attr" else _port_layer(name)
            if number is not None:
                made.layer_of[node] = number
            continue
        number = layers.number(str(node.meta.get("module", "")))
        if number is None:
            (made.before if reached < 0 else made.after).append(node)
            continue
        if made.after or number not in (reached, reached + 1):
            raise NotRepeated("layers that are not run one after the other")
        reached = number
        made.layers[number].append(node)
        made.layer_of[node] = number
    if reached != layers.prefix - 1:
        raise NotRepeated("a layer of which nothing was traced")
    return made


def _port_layer(name: str) -> int | None:
    found = re.fullmatch(r"past_(\d+)_\w+", name)
    return int(found[1]) if found else None


def _port_of(name: str, layer: int) -> str:
    """The name that a layer's port has in another layer."""
    return re.sub(r"^past_\d+_", f"past_{layer}_", name)


def _exit(segments: _Segments, layer: int) -> fx.Node:
    """The one node of a layer that others read; what the KV cache keeps of it aside."""
    ours = set(segments.layers[layer])
    exits = [n for n in segments.layers[layer] if any(u not in ours and u.op != "output" for u in n.users)]
    if len(exits) != 1:
        raise NotRepeated(f"layer {layer} hands on {len(exits)} values")
    return exits[0]


def _value(node: fx.Node, weights: Mapping[str, torch.Tensor]) -> Any:
    """A small constant's value: the tracer makes one anew wherever one is written."""
    tensor = weights[str(node.target)] if node.op == "get_attr" else None
    if tensor is None or tensor.device.type == "meta" or tensor.numel() > 64:
        return None
    return str(tensor.dtype), tuple(tensor.shape), repr(tensor.tolist())


def _text(
    segments: _Segments, layers: Layers, weights: Mapping[str, torch.Tensor], layer: int, entry: fx.Node
) -> list[Any]:
    """A layer's nodes with their arguments by what they are to the layer, to be compared with another's."""
    place = {node: i for i, node in enumerate(segments.layers[layer])}

    def called(node: fx.Node) -> Any:
        if node is entry:
            return "entry"
        if node in place:
            return ("node", place[node])
        if segments.layer_of.get(node) == layer:
            name = str(node.target)
            return (
                "own",
                re.sub(r"\d+", "", name, count=1) if node.op == "placeholder" else layers.renumbered(name, 0),
            )
        if node in segments.layer_of:
            raise NotRepeated(f"layer {layer} reads {node.name} of another")
        return ("common", _value(node, weights) or node.name)

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return called(value)
        if isinstance(value, (list, tuple)):
            return tuple(map(plain, value))
        return repr(value)

    return [
        (str(n.target), layers.renumbered(n.meta["module"], 0), plain(n.args), plain(list(n.kwargs.items())))
        for n in segments.layers[layer]
    ]


def _check(segments: _Segments, layers: Layers, weights: Mapping[str, torch.Tensor]) -> dict[int, fx.Node]:
    """The value with which each layer of the prefix begins. NotRepeated where two of a kind differ."""
    exits = [_exit(segments, i) for i in range(layers.prefix)]
    entries = {i: exits[i - 1] for i in range(1, layers.prefix)}
    for first, last in layers.twins:
        if last == first:
            if first == 0:
                raise NotRepeated("a first layer that stands alone")
            continue
        wanted = _text(segments, layers, weights, last, entries[last])
        if first > 0:
            candidates = [entries[first]]
        else:
            read = dict.fromkeys(i for n in segments.layers[0] for i in n.all_input_nodes if i not in segments.layer_of)
            candidates = list(read)
        if not any(_text(segments, layers, weights, first, c) == wanted for c in candidates):
            raise NotRepeated(f"layers {first} and {last} differ")
    return entries


def repeat(program: Program, model: nn.Module, layers: Layers) -> Program:
    """The program of all layers, from that of the first.

    Args:
        program: as it was traced, each node with its `module` in its meta.
        model: whose weights the copies read.
        layers: which layer is a copy of which.

    Raises:
        NotRepeated: the layers of the program are no copies of each other.
    """
    segments = _segments(program.graph, layers)
    entries = _check(segments, layers, program.weights)
    graph = _Writer(program.graph, layers, segments, entries).written()
    ports = {port.name: port for port in program.inputs}
    inputs = tuple(_port(str(n.target), ports, layers) for n in graph.nodes if n.op == "placeholder")
    outputs = ("logits", *(p.name for p in inputs if p.kind in ("kv", "recurrent")))
    weights = {**program.weights, **_copied_weights(program, model, layers)}
    whole = program.replace(graph=graph, weights=weights, inputs=inputs, outputs=outputs)
    verify_structure(whole)
    return whole.replace(info=dataclasses.replace(whole.info, digest=model_digest(whole)))


def _port(name: str, ports: Mapping[str, Port], layers: Layers) -> Port:
    layer = _port_layer(name)
    like = ports[name if layer is None else _port_of(name, layers.source[layer])]
    return dataclasses.replace(like, name=name)


def _copied_weights(program: Program, model: nn.Module, layers: Layers) -> dict[str, torch.Tensor]:
    real: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    real |= dict(model.named_buffers(remove_duplicate=False))
    found = {}
    for layer, copied in layers.copies.items():
        for name in program.weights:
            if layers.number(name) == copied:
                renamed = layers.renumbered(name, layer)
                if (own := renamed.removeprefix("constant.")) not in real:
                    raise NotRepeated(f"{own} is none of the model's weights")
                found[renamed] = real[own].detach()
    return found


class _Writer:
    """Writes the whole graph: what stands before the layers, each of them, and what stands after."""

    def __init__(
        self,
        graph: fx.Graph,
        layers: Layers,
        segments: _Segments,
        entries: Mapping[int, fx.Node],
    ) -> None:
        self.old, self.layers, self.segments, self.entries = graph, layers, segments, entries
        self.new = fx.Graph()
        self.leaves: dict[tuple[fx.Node, int | None], fx.Node] = {}  # weights and ports, by layer

    def written(self) -> fx.Graph:
        """Return the new graph."""
        for op in ("get_attr", "placeholder"):
            self._leaves([n for n in self.old.nodes if n.op == op])
        once = {old: new for (old, layer), new in self.leaves.items() if layer == self.segments.layer_of.get(old)}
        self._write(self.segments.before, once, None)
        last = len(self.layers.source) - 1
        made: list[dict[fx.Node, fx.Node]] = []
        for layer, source in enumerate(self.layers.source):
            own = {old: new for (old, number), new in self.leaves.items() if number == layer}
            entered = {self.entries[source]: made[-1][self._exit_of(layer - 1)]} if layer else {}
            made.append({**once, **own, **entered})
            self._write(self.segments.layers[source], made[-1], layer)
        final = {**once, self._exit_of(self.layers.prefix - 1, traced=True): made[-1][self._exit_of(last)]}
        self._write(self.segments.after, final, None)
        self._output(final, made)
        return self.new

    def _exit_of(self, layer: int, traced: bool = False) -> fx.Node:
        return _exit(self.segments, layer if traced else self.layers.source[layer])

    def _leaves(self, nodes: list[fx.Node]) -> None:
        """Weights, or ports, as they stand, those of each copied layer after those of the last that was traced."""
        of = self.segments.layer_of
        for place, node in enumerate(nodes):
            layer = of.get(node)
            self._leaf(node, layer)
            following = of.get(nodes[place + 1]) if place + 1 < len(nodes) else None
            if layer == self.layers.prefix - 1 and following != layer:
                alike = [n for n in nodes if _is_buffer(n) == _is_buffer(node)]
                for copied, source in self.layers.copies.items():
                    for other in alike:
                        if of.get(other) == source:
                            self._leaf(other, copied)

    def _leaf(self, node: fx.Node, layer: int | None) -> None:
        name = str(node.target)
        if layer is not None:
            name = self.layers.renumbered(name, layer) if node.op == "get_attr" else _port_of(name, layer)
        new = self.new.get_attr(name) if node.op == "get_attr" else self.new.placeholder(name)
        new.meta = dict(node.meta)
        self.leaves[node, layer] = new

    def _write(self, nodes: list[fx.Node], env: dict[fx.Node, fx.Node], layer: int | None) -> None:
        for node in nodes:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: env[n])
            new = self.new.create_node("call_function", node.target, args, kwargs, name=node.name)
            module = str(node.meta["module"])
            new.meta = {**node.meta, "module": module if layer is None else self.layers.renumbered(module, layer)}
            env[node] = new

    def _output(self, final: Mapping[fx.Node, fx.Node], made: list[dict[fx.Node, fx.Node]]) -> None:
        """The logits, then what becomes of each carried port, in the order of the ports."""
        (output,) = (n for n in self.old.nodes if n.op == "output")
        first, *kept = output.args[0]
        carried = [n for n in self.old.nodes if n.op == "placeholder" and n in self.segments.layer_of]
        if len(kept) != len(carried):
            raise NotRepeated("ports that belong to no layer")
        value_of = dict(zip(carried, kept, strict=True))
        values = [final[first]]
        for old, layer in self.leaves:
            if old in value_of and layer is not None:
                if self.segments.layer_of.get(value_of[old]) != self.layers.source[layer]:
                    raise NotRepeated("a layer that keeps what another made")
                values.append(made[layer][value_of[old]])
        self.new.output(tuple(values))


def _is_buffer(node: fx.Node) -> bool:
    return str(node.target).startswith("constant.")
