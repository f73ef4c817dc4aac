"""A graph as a chain of layers: its nodes by layer, each layer in words, and the stretch of layers that repeats.

A node belongs to the last layer whose weights or ports it depends on, so the cuts need no names of modules, and they
are the same however a compiler has fused nodes over the border of two layers. What a layer is, is told by its nodes, by
what they read and by what the next layer reads of them. Layers of the same words are one function of what they read.

The same is done to a program's graph and to the ONNX model that comes of it: `GraphView` says how each is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

LONGEST_PERIOD = 12
"""Layers after which kinds of layers may come again: six in Gemma, eight in Jamba."""


class NotRepeated(Exception):
    """The layers of a graph are no copies of each other, or not seen to be."""


@dataclass(frozen=True)
class Leaf:
    """A weight or a port: the layer that owns it, None where it is common to all, and in words without the layer."""

    layer: int | None
    words: Hashable


class GraphView(Protocol):
    """How a graph is read. Nodes and values are of any hashable kind."""

    def nodes(self) -> Sequence[Any]:
        """Return the nodes that compute, in order."""

    def reads(self, node: Any) -> Sequence[Any]:
        """Return the values that a node reads, None where an input is left out."""

    def makes(self, node: Any) -> Sequence[Any]:
        """Return the values that a node computes."""

    def leaf(self, value: Any) -> Leaf:
        """Describe a value that no node computes."""

    def words(self, node: Any, layer: int | None) -> Hashable:
        """Describe what a node computes of what it reads; a layer's own number is left out."""

    def commutes(self, node: Any) -> bool:
        """Return whether a node adds or multiplies whole numbers, in whatever order they stand."""


@dataclass
class Segment:
    """The nodes of one layer, in words.

    Attributes:
        nodes: in the graph's order.
        entries: values of the layer before that only this layer reads, in the order of reading.
        text: the layer in words.
        common_from: the last layer of which it reads what other layers read too; -1 for none.
    """

    nodes: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    text: tuple[Hashable, ...] = ()
    common_from: int = -1


@dataclass(frozen=True)
class Repetition:
    """Layers `start`, ..., `start + period * count - 1` are `count` equal groups of `period` layers.

    Of these groups the first two are kept in a short program, which stand for the others.
    """

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """The first layer after the groups."""
        return self.start + self.period * self.count

    @property
    def kept_end(self) -> int:
        """The first layer that a short program does without."""
        return self.start + 2 * self.period

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.start <= layer < self.end

    def dropped(self) -> range:
        """The layers that a short program does without."""
        return range(self.kept_end, self.end)


class Chain:
    """A graph by layers.

    Args:
        view: reads the graph.
        layers: the numbers of the layers that it has, in order.

    Attributes:
        before: nodes that depend on no layer.
        segments: a segment for each of the layers.
        place: value -> (index of its segment, -1 before the first; of its node in it; of the value).
    """

    def __init__(self, view: GraphView, layers: Sequence[int]) -> None:
        self.view, self.layers = view, tuple(layers)
        self._index = {layer: i for i, layer in enumerate(layers)}
        self.before: list[Any] = []
        self.segments = [Segment() for _ in layers]
        self.place: dict[Any, tuple[int, int, int]] = {}
        self._readers: dict[Any, set[int]] = {}
        self._known: dict[Any, Hashable] = {}
        self._cut()
        for index in range(len(self.segments)):
            self._describe(index)

    def depth(self, value: Any) -> int:
        """The index of the segment that a value belongs to, -1 where it depends on no layer."""
        if value is None:
            return -1
        if value in self.place:
            return self.place[value][0]
        layer = self.view.leaf(value).layer
        return -1 if layer is None else self._index[layer]

    def exits(self, index: int) -> list[tuple[int, int]]:
        """Return what the next segment alone reads of one: nodes' and values' indices, in the order of reading."""
        following = self.segments[index + 1].entries if index + 1 < len(self.segments) else []
        return [self.place[value][1:] for value in following]

    def _cut(self) -> None:
        for node in self.view.nodes():
            reads = self.view.reads(node)
            depth = max(map(self.depth, reads), default=-1)
            nodes = self.segments[depth].nodes if depth >= 0 else self.before
            for number, value in enumerate(self.view.makes(node)):
                self.place[value] = (depth, len(nodes), number)
            for value in reads:
                if value in self.place:
                    self._readers.setdefault(value, set()).add(depth)
            nodes.append(node)

    def _describe(self, index: int) -> None:
        segment, layer = self.segments[index], self.layers[index]
        segment.text = tuple(
            (self.view.words(node, layer), tuple(self._reference(value, index) for value in self.view.reads(node)))
            for node in segment.nodes
        )

    def _reference(self, value: Any, index: int) -> Hashable:
        """A value that a segment reads, by what it is to the segment."""
        if value is None:
            return None
        segment = self.segments[index]
        if value not in self.place:
            leaf = self.view.leaf(value)
            if leaf.layer is None or leaf.layer == self.layers[index]:
                return ("own" if leaf.layer is not None else "common", leaf.words)
            segment.common_from = max(segment.common_from, self._index[leaf.layer])
            return ("of", leaf.layer, leaf.words)
        depth, *where = self.place[value]
        if depth == index:
            return ("here", *where)
        if depth >= 0 and self._readers[value] <= {depth, depth + 1}:
            if value not in segment.entries:
                segment.entries.append(value)
            return ("entry", segment.entries.index(value))
        segment.common_from = max(segment.common_from, depth)
        return ("made", depth, *where) if depth >= 0 else ("before", self._computed(value))

    def _computed(self, value: Any) -> Hashable:
        """How a value is computed that depends on no layer, so that what is computed twice is one thing."""
        if value not in self._known:
            if value is None or value not in self.place:
                self._known[value] = None if value is None else self.view.leaf(value).words
            else:
                _, position, number = self.place[value]
                node = self.before[position]
                read = [self._computed(v) for v in self.view.reads(node)]
                read = sorted(read, key=hash) if self.view.commutes(node) else read
                self._known[value] = hash((self.view.words(node, None), tuple(read), number))
        return self._known[value]

    def check(self, found: Repetition) -> None:
        """Compare the first two groups of a repetition: raises NotRepeated where they are not the same."""
        for i in range(found.start, found.start + found.period):
            if self.segments[i].text != self.segments[i + found.period].text:
                raise NotRepeated(f"layers {self.layers[i]} and {self.layers[i + found.period]} differ")
            inner = i + 1 < found.start + found.period
            if inner and self.exits(i) != self.exits(i + found.period):
                raise NotRepeated(f"layers {self.layers[i]} and {self.layers[i + found.period]} hand on other values")
        within = range(found.start, found.kept_end - 1)
        for i, segment in enumerate(self.segments[found.start :], found.start):
            if segment.common_from in within or (i < found.kept_end and segment.common_from >= found.start):
                raise NotRepeated(f"layer {self.layers[i]} reads what layer {self.layers[segment.common_from]} made")


def find_repetition(chain: Chain) -> Repetition:
    """The stretch of equal groups of layers that leaves the shortest program.

    Raises:
        NotRepeated: no layer can be spared.
    """
    best = max(_candidates(chain), key=lambda r: (r.period * (r.count - 2), -r.period), default=None)
    if best is None:
        raise NotRepeated("no two groups of layers are the same")
    return best


def _candidates(chain: Chain) -> Iterator[Repetition]:
    count = len(chain.layers)
    names: dict[Hashable, int] = {}
    kinds = [names.setdefault((s.text, tuple(chain.exits(i))), len(names)) for i, s in enumerate(chain.segments)]
    for period in range(1, min(LONGEST_PERIOD, (count - 2) // 3) + 1):
        start = 1
        while start < count:
            end = start
            while end + period < count and kinds[end] == kinds[end + period] and _fixed(chain, end, start):
                end += 1
            groups = (end - start) // period + 1
            if start + groups * period >= count:
                groups -= 1
            if groups >= 3 and all(_fixed(chain, i, start) for i in range(start, start + groups * period)):
                yield Repetition(start, period, groups)
            start = max(end, start) + 1


def _fixed(chain: Chain, index: int, start: int) -> bool:
    """Return whether all that a layer has in common with others was made before the groups."""
    return chain.segments[index].common_from < start
