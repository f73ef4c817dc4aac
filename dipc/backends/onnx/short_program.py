"""A program of the first few layers and the last, which are lowered to ONNX in place of all of them.

The layers that stand for others have weights drawn at random, so that nothing can be folded into a constant, or left
out, because of what a weight is: what the ONNX of such a layer is, it is for every layer of the same shape.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from dipc.backends.onnx.chain import Chain, Leaf, NotRepeated, Repetition, find_repetition
from dipc.ir.program import Port, Program, is_buffer

_SIZE = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class LayerNames:
    """Which layer a weight, a port or a site is of, by its name.

    Attributes:
        path: what stands before the number in the names of weights: `model.layers.`.
        layers: L.
    """

    path: str
    layers: int

    @classmethod
    def of(cls, program: Program) -> LayerNames:
        """Find the names of a program. Raises NotRepeated where no path has a number for each layer."""
        numbers: dict[str, set[int]] = {}
        for name in program.weights:
            if found := re.match(r"(?:constant\.)?(.*?\.)(\d+)\.", name):
                numbers.setdefault(found[1], set()).add(int(found[2]))
        for path, held in numbers.items():
            if held == set(range(program.info.layers)):
                return cls(path, program.info.layers)
        raise NotRepeated("no names of weights that count the layers")

    def weight(self, name: str) -> int | None:
        """The layer of a weight."""
        return self._number(rf"(?:constant\.)?{re.escape(self.path)}(\d+)\.", name)

    def port(self, name: str) -> int | None:
        """The layer of a carried port: `past_3_key`, `layers_3_glu_cached`."""
        return self._number(r"(?:past|layers)_(\d+)_", name)

    def moved(self, name: str, layer: int) -> str:
        """The same weight, port or site in another layer."""
        return re.sub(rf"^((?:constant\.)?{re.escape(self.path)}|past_|layers[_.])\d+(?=[._])", rf"\g<1>{layer}", name)

    def _number(self, pattern: str, name: str) -> int | None:
        found = re.match(pattern, name)
        return int(found[1]) if found else None


def by_value(name: str, weight: Tensor) -> bool:
    """Return whether a tensor is a constant, the same in layers that are alike, and no trained weight."""
    return is_buffer(name) or weight.dim() == 0 or not (weight.is_floating_point() or weight.dtype is torch.uint8)


class ProgramView:
    """Reads the graph of a program for `Chain`. A value is its node."""

    def __init__(self, program: Program, names: LayerNames) -> None:
        self.program, self.names = program, names
        self._ports = {port.name: port for port in program.inputs}
        (output,) = (n for n in program.graph.nodes if n.op == "output")
        self._results = dict(zip(output.args[0], program.outputs, strict=True))

    def nodes(self) -> Sequence[fx.Node]:
        """Return the nodes that call a function."""
        return [n for n in self.program.graph.nodes if n.op == "call_function"]

    def reads(self, node: fx.Node) -> Sequence[Any]:
        """Return the nodes among the arguments, in order; in place of a port of which the size is read, that size."""
        found: list[Any] = []
        map_arg((node.args, node.kwargs), found.append)
        if node.target is _SIZE and found[0].op == "placeholder":
            return [self._ports[str(found[0].target)].type.shape[node.args[1]]]  # type: ignore[index]
        return found

    def makes(self, node: fx.Node) -> Sequence[fx.Node]:
        """Return the node itself."""
        return [node]

    def leaf(self, value: Any) -> Leaf:
        """Describe a weight by shape and dtype, or a constant by value; a port by its type."""
        if not isinstance(value, fx.Node):
            return Leaf(None, ("size", value))
        name = str(value.target)
        if value.op == "placeholder":
            layer, port = self.names.port(name), self._ports[name]
            return Leaf(layer, (self._told(name, layer), *dataclasses.astuple(port)[1:]))
        layer, weight = self.names.weight(name), self.program.weights[name]
        words = (self._told(name, layer), str(weight.dtype), tuple(weight.shape))
        if weight.device.type != "meta" and by_value(name, weight) and weight.numel() <= 4096:
            return Leaf(layer, (*(words if layer is not None else words[1:]), repr(weight.tolist())))
        return Leaf(layer, words)

    def words(self, node: fx.Node, layer: int | None) -> Hashable:
        """Describe a call: its function, what is no node among its arguments, and which result it is."""
        plain = map_arg((node.args, node.kwargs), lambda _: None)
        said = re.sub(rf"'layers\.{layer}\.", "'layers.", repr(plain)) if node.target is not _SIZE else ""
        result = self._results.get(node)
        return str(node.target), said, result and self._told(result, self.names.port(result))

    def commutes(self, node: fx.Node) -> bool:
        """Return whether a call adds or multiplies sizes: torch gives them in one order or the other."""
        return node.target in (operator.add, operator.mul)

    def _told(self, name: str, layer: int | None) -> str:
        return name if layer is None else self.names.moved(name, 0)


@dataclass(frozen=True)
class ShortProgram:
    """A program without the layers that others stand for.

    Attributes:
        program: its layers keep their numbers in the names of weights and ports.
        whole: of which it is a part.
        names: of layers.
        repetition: which layers it leaves out.
    """

    program: Program
    whole: Program
    names: LayerNames
    repetition: Repetition

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it has."""
        return tuple(i for i in range(self.names.layers) if i not in self.repetition.dropped())


def shorten(program: Program) -> ShortProgram:
    """The program without most of its layers that are alike.

    Raises:
        NotRepeated: no layer can be spared.
    """
    names = LayerNames.of(program)
    view = ProgramView(program, names)
    chain = Chain(view, range(names.layers))
    found = find_repetition(chain)
    dropped = found.dropped()
    graph = _without(program, chain, names, found)
    chance = torch.Generator().manual_seed(0)
    weights = {
        name: _random(weight, chance) if names.weight(name) in found and not by_value(name, weight) else weight
        for name, weight in program.weights.items()
        if names.weight(name) not in dropped
    }
    kept: Callable[[str], bool] = lambda name: names.port(name) not in dropped  # noqa: E731
    inputs: tuple[Port, ...] = tuple(p for p in program.inputs if kept(p.name))
    outputs = tuple(name for name in program.outputs if kept(name))
    short = program.replace(graph=graph, weights=weights, inputs=inputs, outputs=outputs)
    return ShortProgram(short, program, names, found)


def _without(program: Program, chain: Chain, names: LayerNames, found: Repetition) -> fx.Graph:
    """The graph of the layers that are kept, what comes after reading of the last kept what it read of the last."""
    dropped = found.dropped()
    stand_ins = chain.segments[found.kept_end - 1].nodes
    depths = {n: chain.depth(n) for n in program.graph.nodes if n.op == "call_function"}
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()

    def present(node: fx.Node) -> fx.Node:
        if depths.get(node) == found.end - 1:
            node = stand_ins[chain.place[node][1]]
        if node not in env:
            raise NotRepeated(f"{node.name} of a layer that is left out is read elsewhere")
        return env[node]

    for node in program.graph.nodes:
        if node.op == "output":
            kept = [n for n, name in zip(node.args[0], program.outputs, strict=True) if names.port(name) not in dropped]
            graph.output(tuple(present(n) for n in kept))
        elif (depth := depths.get(node, _leaf_layer(node, names))) == -1 and any(
            i not in env for i in node.all_input_nodes
        ):
            continue  # The size of a port that is left out, say: what is kept reads another's.
        elif depth not in dropped:
            env[node] = graph.node_copy(node, present)
    return graph


def _leaf_layer(node: fx.Node, names: LayerNames) -> int | None:
    """The layer of a weight or a port."""
    name = str(node.target)
    return names.port(name) if node.op == "placeholder" else names.weight(name)


def _random(weight: Tensor, chance: torch.Generator) -> Tensor:
    """A tensor of the same shape and dtype, whose values say nothing and are those of no other."""
    if weight.dtype is torch.uint8:
        return torch.randint(0, 256, weight.shape, dtype=torch.uint8, generator=chance)
    return torch.rand(weight.shape, generator=chance).to(weight.dtype)
