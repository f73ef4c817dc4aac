"""The ONNX model of a whole program from that of a short one: the nodes of the layers that stand for others, repeated.

First the layers that were lowered twice are compared, node by node. Where they are not the same, nothing is repeated,
and the program is to be lowered whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from dipc.backends.onnx.chain import Chain, Leaf, NotRepeated
from dipc.backends.onnx.names import input_names, output_names
from dipc.backends.onnx.packed_weights import PackedWeight, PackedWeights, array_of
from dipc.backends.onnx.short_program import ShortProgram, by_value

_LARGE = 2**20  # values of an initializer from which on its name stands for what it holds


class ModelView:
    """Reads the graph of an ONNX model for `Chain`."""

    def __init__(self, model: ir.Model, short: ShortProgram) -> None:
        self.graph, self.short = model.graph, short
        names = input_names(short.program)
        self.port_of = {names[port.name]: port.name for port in short.program.inputs}
        self.result_of = dict(zip(output_names(short.program), short.program.outputs, strict=True))
        self.packed: dict[str, PackedWeight] = {}
        self._leaves: dict[ir.Value, Leaf] = {}
        self._find_weights()

    def _find_weights(self) -> None:
        short, names = self.short.program, self.short.names
        drawn = {n: w for n, w in short.weights.items() if names.weight(n) in self.short.repetition}
        known = PackedWeights({n: w for n, w in drawn.items() if not by_value(n, w)})
        for name, value in self.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if name in short.weights:
                if name in drawn and not np.array_equal(tensor.numpy(), array_of(short.weights[name])):
                    raise NotRepeated(f"the exporter changed {name}")
            elif value.shape is not None and len(value.shape) == 2 and (found := known.find(tensor.numpy())):
                self.packed[name] = found

    def nodes(self) -> Sequence[ir.Node]:
        """Return the nodes in order."""
        return list(self.graph)

    def reads(self, node: ir.Node) -> Sequence[Any]:
        """Return the inputs; of an input of the model whose size is read, its shape."""
        if node.op_type == "Shape" and (port := node.inputs[0]) is not None and port.is_graph_input():
            return [_shape(port)]
        return node.inputs

    def makes(self, node: ir.Node) -> Sequence[ir.Value]:
        """Return the outputs."""
        return node.outputs

    def leaf(self, value: Any) -> Leaf:
        """Describe an input or an initializer; see `Leaf`."""
        if isinstance(value, tuple):
            return Leaf(None, ("size", *value))
        if value not in self._leaves:
            self._leaves[value] = self._input(value) if value.is_graph_input() else self._initializer(value)
        return self._leaves[value]

    def _input(self, value: ir.Value) -> Leaf:
        port, names = self.port_of[str(value.name)], self.short.names
        layer = names.port(port)
        return Leaf(layer, (port if layer is None else names.moved(port, 0), str(value.dtype), _shape(value)))

    def _initializer(self, value: ir.Value) -> Leaf:
        name, names, tensor = str(value.name), self.short.names, value.const_value
        assert tensor is not None
        kind = (str(tensor.dtype), _shape(value))
        layer = names.weight(name) if name in self.short.program.weights else None
        if layer is not None:
            return Leaf(layer, (names.moved(name, 0), *kind))
        if found := self.packed.get(name):
            layers = {names.weight(part) for part, _ in found.parts}
            if len(layers) > 1:
                raise NotRepeated(f"{name} is made of several layers' weights")
            return Leaf(layers.pop(), (found.moved(names, 0).parts, *kind))
        if tensor.size >= _LARGE and name in self.short.program.weights:
            return Leaf(None, (name, *kind))
        return Leaf(None, (hashlib.sha256(tensor.tobytes()).hexdigest(), *kind))

    def words(self, node: ir.Node, layer: int | None) -> Hashable:
        """Describe an operator with its attributes, and what it makes."""
        attributes = tuple(sorted((n, _attribute(a, layer)) for n, a in node.attributes.items()))
        made = tuple((str(v.dtype), _shape(v), self._result(v)) for v in node.outputs)
        return node.domain, node.op_type, node.overload, attributes, made

    def commutes(self, node: ir.Node) -> bool:
        """Return whether a node adds or multiplies whole numbers."""
        return node.op_type in ("Add", "Mul") and node.outputs[0].dtype == ir.DataType.INT64

    def _result(self, value: ir.Value) -> str | None:
        if not value.is_graph_output():
            return None
        port, names = self.result_of[str(value.name)], self.short.names
        return port if names.port(port) is None else names.moved(port, 0)


def _shape(value: ir.Value) -> tuple[int | str, ...] | None:
    """The shape, of whose dynamic sizes only those of the inputs have names that mean something."""
    if value.shape is None:
        return None
    named = value.is_graph_input()
    return tuple(d if isinstance(d, int) else str(d.value) if named else "?" for d in value.shape)


def _attribute(attribute: ir.Attr, layer: int | None) -> str:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise NotRepeated("a node with a graph of its own")
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype}{tensor.shape}{hashlib.sha256(tensor.tobytes()).hexdigest()}"
    said = f"{attribute.type} {attribute.value!r}"
    return re.sub(rf"layers\.{layer}\.", "layers.", said)


def repeat_layers(model: ir.Model, short: ShortProgram) -> None:
    """Complete the model of a short program, in place, to that of the whole one.

    Raises:
        NotRepeated: layers of the model that are to be the same are not; the model is of no more use.
    """
    view = ModelView(model, short)
    chain = Chain(view, short.layers)
    chain.check(short.repetition)
    _Writer(model.graph, view, chain).write()


class _Writer:
    """Writes the nodes of the layers that were left out, and gives every layer its own weights."""

    def __init__(self, graph: ir.Graph, view: ModelView, chain: Chain) -> None:
        self.graph, self.view, self.chain, self.short = graph, view, chain, view.short
        self.found = self.short.repetition
        self.inputs = input_names(self.short.whole)
        self.results = dict(zip(self.short.whole.outputs, output_names(self.short.whole), strict=True))
        self.values = {str(v.name): v for v in (*graph.inputs, *graph.outputs)}
        self.leaves: dict[tuple[ir.Value, int], ir.Value] = {}

    def write(self) -> None:
        """Change the graph."""
        found, segments = self.found, self.chain.segments
        kept = [*self.chain.before, *(n for s in segments[: found.kept_end] for n in s.nodes)]
        rest = [n for s in segments[found.kept_end :] for n in s.nodes]
        self._own_weights()
        last, copies = segments[found.kept_end - 1].nodes, list[ir.Node]()
        for layer in found.dropped():
            last = self._copied(layer, last)
            copies += last
        for node in rest:
            for i, value in enumerate(node.inputs):
                if value is not None and self.chain.depth(value) == found.kept_end - 1 and value in self.chain.place:
                    _, position, number = self.chain.place[value]
                    node.replace_input_with(i, last[position].outputs[number])
        self.graph.remove(list(self.graph))
        self.graph.extend([*kept, *copies, *rest])
        self.graph.inputs[:] = [self.values[self.inputs[p.name]] for p in self.short.whole.inputs]
        self.graph.outputs[:] = [self.values[self.results[name]] for name in self.short.whole.outputs]

    def _own_weights(self) -> None:
        """Put the weights of the layers in place of those that were drawn."""
        names, weights = self.short.names, self.short.whole.weights
        for name, value in self.graph.initializers.items():
            if name in self.view.packed:
                value.const_value = self.view.packed[name].tensor(weights, value.const_value)
            elif name in self.short.program.weights and names.weight(name) in self.found:
                value.const_value = TorchTensor(weights[name].detach(), name=name)

    def _copied(self, layer: int, before: list[ir.Node]) -> list[ir.Node]:
        """The nodes of a layer that was left out; `before` are those of the layer before it."""
        source = self.found.start + self.found.period + (layer - self.found.start) % self.found.period
        made: dict[ir.Value, ir.Value] = {}
        for value in self.chain.segments[source].entries:
            _, position, number = self.chain.place[value]
            made[value] = before[position].outputs[number]
        copies = []
        for node in self.chain.segments[source].nodes:
            inputs = [v and (made.get(v) or self._leaf(v, source, layer)) for v in node.inputs]
            copy = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                [_moved(a, source, layer) for a in node.attributes.values()],
                overload=node.overload,
                outputs=[self._result(v, layer) for v in node.outputs],
                version=node.version,
                name=f"{node.name}.{layer}",
            )
            made.update(zip(node.outputs, copy.outputs, strict=True))
            copies.append(copy)
        return copies

    def _result(self, value: ir.Value, layer: int) -> ir.Value:
        name = f"{value.name}.{layer}"
        if value.is_graph_output():
            name = self.results[self.short.names.moved(self.view.result_of[str(value.name)], layer)]
        new = ir.Value(name=name, shape=value.shape, type=value.type)
        if value.is_graph_output():
            self.values[name] = new
        return new

    def _leaf(self, value: ir.Value, source: int, layer: int) -> ir.Value:
        """An input or an initializer of a layer in another; what is common to all is the same."""
        if value in self.chain.place or self.view.leaf(value).layer != source:
            return value
        if (value, layer) not in self.leaves:
            self.leaves[value, layer] = (
                self._input(value, layer) if value.is_graph_input() else self._weight(value, layer)
            )
        return self.leaves[value, layer]

    def _input(self, value: ir.Value, layer: int) -> ir.Value:
        name = self.inputs[self.short.names.moved(self.view.port_of[str(value.name)], layer)]
        self.values[name] = ir.Value(name=name, shape=value.shape, type=value.type)
        return self.values[name]

    def _weight(self, value: ir.Value, layer: int) -> ir.Value:
        names, weights = self.short.names, self.short.whole.weights
        name, tensor = str(value.name), value.const_value
        if name in self.view.packed:
            made: Any = self.view.packed[name].moved(names, layer).tensor(weights, tensor)
            name = f"{name}.{layer}"
        else:
            name = names.moved(name, layer)
            made = TorchTensor(weights[name].detach(), name=name)
        new = ir.Value(name=name, shape=value.shape, type=value.type, const_value=made)
        self.graph.register_initializer(new)
        return new


def _moved(attribute: ir.Attr, source: int, layer: int) -> ir.Attr:
    """An attribute in another layer: sites have the layer in their names."""
    if attribute.type != ir.AttributeType.STRING:
        return attribute
    text = re.sub(rf"^layers\.{source}\.", f"layers.{layer}.", attribute.as_string())
    return ir.AttrString(attribute.name, text)
