"""Program: what dipc compiles. A `torch.fx` graph of ATen and `dipc` operators, its weights, and what is known of both.

The graph is flat and functional. Its weights are `get_attr` nodes under their original names; its placeholders are the
ports below; its outputs are the logits and the next value of every carried port. Programs are values: a pass returns a
new one, and weights are shared between programs rather than copied.

Shape legend: `seq` tokens in this call, `past` tokens already in the KV cache, `past_window` those of them that a layer
with a sliding window still keeps. The batch is always one sequence: cache
state belongs to a sequence of tokens, and token generation on a device has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dipc.ir.printer import to_text
from dipc.ir.site import SiteId
from dipc.ir.weight_parts import parameters_per_entry

if TYPE_CHECKING:
    import torch
    from torch import fx

PAST = ("past", "past_window")
"""Symbols of a shape that count positions before this call."""
PortKind = Literal["tokens", "positions", "dense", "kv", "recurrent", "state"]


@dataclass(frozen=True)
class TensorType:
    """dtype as torch spells it, without `torch.`, and shape, whose entries are ints, `seq` or a symbol of `PAST`."""

    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Port:
    """An input of the program besides its weights.

    `tokens` i64[1, seq]; `positions` i64[1, seq]; `dense` bool[1, seq] (tokens to leave dense, for `scope=decode`);
    `kv`, `recurrent` and `state` are carried from call to call: they start at `fill` (a KV cache with no past
    positions) and take the value of the output of the same name. `kv` and `recurrent` (of convolutions, state-space and
    linear-attention layers) belong to a text and start anew with the next; `state`, of selections, is kept.
    """

    name: str
    kind: PortKind
    type: TensorType
    fill: float | int | bool = 0
    window: int | None = None
    """Positions that its layer attends to, the newest among them: whoever runs the program may drop the others."""

    @property
    def past_axis(self) -> int | None:
        """The dimension of its shape that counts past positions; None if there is none."""
        return next((i for i, extent in enumerate(self.type.shape) if extent in PAST), None)


@dataclass(frozen=True)
class Mlp:
    """One gated MLP that `outline-glu` found: y = W_down (act(W_gate x) * W_up x), Eq. 1 and 2."""

    name: str
    layer: int
    gate: str
    up: str
    down: str
    d_model: int
    d_ff: int
    activation: str
    place: int | None = None
    """Which of its layer's MLPs it is, where a layer has several."""

    @property
    def site_prefix(self) -> str:
        """The beginning of its sites' names: `layers.3`, or `layers.3.1` where a layer has several MLPs."""
        return self.site("").prefix

    def site(self, place: str) -> SiteId:
        """Return the site at a place of this MLP."""
        return SiteId(self.layer, self.place, place)


@dataclass(frozen=True)
class ModelInfo:
    """Where the model came from and what every result about it has to name.

    A value of a weight takes `weight_bits` in the checkpoint, with its share of scales if there are some; weights of
    another width than most have theirs in `own_bits`, by name.
    """

    name: str
    family: str
    layers: int
    d_model: int
    vocab: int
    context: int
    weight_bits: float
    digest: str
    has_weights: bool
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text, where the model's files say which."""
    own_bits: Mapping[str, float] = field(default_factory=dict, hash=False)

    def bits_of(self, weight: str) -> float:
        """Bits that a value of this weight takes in the checkpoint."""
        return self.own_bits.get(weight, self.weight_bits)

    @property
    def usual_context(self) -> int:
        """Positions that a KV cache is priced with unless told otherwise: the model's context, at most 2,048."""
        return min(self.context, 2048)


@dataclass(frozen=True)
class Method:
    """The sparsification that was applied, as results report it."""

    name: str = "dense"
    density: float = 1.0
    scope: str = "all"
    options: str = ""


@dataclass(frozen=True)
class Program:
    """A model as a graph, with its weights. See the module's docstring.

    `graph` is not to be changed in place by anybody but a pass that has just made its own copy (`edit`). `dense` is the
    program before the first method rewrote it: what results are compared with.
    """

    graph: fx.Graph
    weights: Mapping[str, torch.Tensor]
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    info: ModelInfo
    mlps: tuple[Mlp, ...] = ()
    method: Method = Method()
    tokenizer: Any = field(default=None, compare=False)
    dense: Program | None = field(default=None, compare=False, repr=False)

    def edit(self) -> fx.Graph:
        """A copy of the graph for a pass to change; put it back with `replace(graph=...)`."""
        from torch import fx

        copy = fx.Graph()
        out = copy.graph_copy(self.graph, val_map={})
        copy.output(out)
        for old, new in zip(self.graph.nodes, copy.nodes, strict=True):
            new.meta = dict(old.meta)
        return copy

    def replace(self, **changes: Any) -> Program:
        """A program with some fields changed; weights that the graph no longer names are dropped."""
        program = dataclasses.replace(self, **changes)
        used = {str(n.target) for n in program.graph.nodes if n.op == "get_attr"}
        if set(program.weights) != used:
            kept = {name: w for name, w in program.weights.items() if name in used}
            program = dataclasses.replace(program, weights=kept)
        return program

    @cached_property
    def module(self) -> fx.GraphModule:
        """The graph as a callable over the ports in order; its output is a tuple in the order of `outputs`."""
        from torch import fx

        return fx.GraphModule(dict(self.weights), self.graph, class_name="Program")

    def port(self, name: str) -> Port:
        """The input of that name."""
        return next(p for p in self.inputs if p.name == name)

    @property
    def reference(self) -> Program:
        """The dense program that this one is compared with: itself where no method was applied."""
        return self.dense or self

    @property
    def carried(self) -> tuple[Port, ...]:
        """The ports that are carried from call to call: KV cache, recurrent and selection state."""
        return tuple(p for p in self.inputs if p.kind in ("kv", "recurrent", "state"))

    @property
    def parameter_count(self) -> int:
        """Parameters of the model: every weight but the buffers (rotary frequencies and the like).

        A stored weight counts as what it stands for: two parameters to a byte of 4-bit codes, none to a scale, and one
        to each bit that says whether a weight was kept. A copy in codes of a table that is kept counts nothing.
        """
        held = parameters_per_entry(self.graph)
        return int(sum(w.numel() * held.get(name, 1) for name, w in self.weights.items() if not is_buffer(name)))

    def nodes_of(self, target: Callable[..., object]) -> list[fx.Node]:
        """The nodes that call this operator, in program order."""
        return [n for n in self.graph.nodes if n.op == "call_function" and n.target is target]

    def text(self) -> str:
        """The program as text: ports, then each module's nodes with their types."""
        return to_text(self)


def is_buffer(name: str) -> bool:
    """Return whether a weight is a constant of the architecture (rotary frequencies), no trained parameter."""
    return name.startswith("constant.")
