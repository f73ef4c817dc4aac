"""What the method passes share: which MLPs to rewrite, how many units to keep, and how to write a `glu` node anew.

A method is a `SparsityPass` that says, in `rewrite`, what becomes of one gated MLP. It works in the terms of the paper
(scores, masks, products) and never sees ports, names or indices.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import fx

from dipc import ops
from dipc.errors import UsageError
from dipc.ops.glu import ACTIVATIONS
from dipc.ops.operator import argument
from dipc.pattern import Mismatch
from dipc.pipeline import Pass, PassResult
from dipc.program import Method, Mlp, Port, Program, TensorType

Scope = Literal["all", "decode"]
ATEN = torch.ops.aten


@dataclass(frozen=True)
class Matrix:
    """A weight of the MLP and its bias, as graph nodes."""

    weight: fx.Node
    bias: fx.Node | None


@dataclass
class Glu:
    """One gated MLP that a method rewrites, and the tools to do it.

    `x` [1, T, D] is its input; `gate`, `up` [F, D] and `down` [D, F] its matrices. The methods below add nodes.
    """

    program: Program
    mlp: Mlp
    node: fx.Node
    scope: Scope
    ports: list[Port]
    carried: list[fx.Node]
    sites: set[str] = field(default_factory=set)
    x: fx.Node = field(init=False)
    gate: Matrix = field(init=False)
    up: Matrix = field(init=False)
    down: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.x = argument(self.node, "x")
        self.gate, self.up, self.down = (
            Matrix(argument(self.node, f"w_{m}"), argument(self.node, f"b_{m}")) for m in ("gate", "up", "down")
        )

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call before the node that is being rewritten."""
        with self.node.graph.inserting_before(self.node):
            node = self.node.graph.create_node("call_function", target, args, kwargs, name=_short_name(target))
        node.meta = {"module": self.mlp.name}
        return node

    def abs(self, x: fx.Node) -> fx.Node:
        """|x|."""
        return self.call(ATEN.abs.default, x)

    def product(self, a: fx.Node, b: fx.Node) -> fx.Node:
        """a * b, elementwise."""
        return self.call(ATEN.mul.Tensor, a, b)

    def activate(self, x: fx.Node) -> fx.Node:
        """The MLP's own activation."""
        target, options = ACTIVATIONS[self.mlp.activation]
        return self.call(target, x, **options)

    def linear(self, x: fx.Node, matrix: Matrix) -> fx.Node:
        """W x + b, the whole matrix."""
        return self.call(ATEN.linear.default, x, matrix.weight, matrix.bias)

    def gather_linear(self, x: fx.Node, mask: fx.Node, matrix: Matrix) -> fx.Node:
        """W x + b from the kept columns only."""
        return self.call(ops.target("gather_linear"), x, mask, matrix.weight, matrix.bias)

    def row_linear(self, x: fx.Node, mask: fx.Node, matrix: Matrix) -> fx.Node:
        """The kept rows of W x + b, zero elsewhere."""
        return self.call(ops.target("row_linear"), x, mask, matrix.weight, matrix.bias)

    def select_topk(self, score: fx.Node, density: float, where: str) -> fx.Node:
        """A mask of the largest scores: `density` of the units of the site `where` ("input" or "glu")."""
        k = kept_units(density, self.units(where))
        return self.call(ops.target("select_topk"), score, k, self.site(where), **self._dense())

    def select_cache_aware(
        self, score: fx.Node, density: float, where: str, *, gamma: float, policy: str, capacity: float
    ) -> fx.Node:
        """A mask that prefers cached units (Eq. 10); the cache's state becomes carried ports of the program.

        `capacity` is the fraction of the site's units that the cache holds.
        """
        units = self.units(where)
        site = self.site(where)
        prefix = site.replace(".", "_")
        kinds: tuple[tuple[str, str, tuple[int, ...], int | bool], ...] = (
            ("cached", "bool", (units,), False),
            ("freq", "int64", (units,), 0),
            ("last_used", "int64", (units,), -1),
            ("t", "int64", (), 0),
        )
        state = [self._port(Port(f"{prefix}_{n}", "state", TensorType(d, s), f)) for n, d, s, f in kinds]
        k, room = kept_units(density, units), min(units, math.floor(capacity * units))
        target = ops.target("select_cache_aware")
        chosen = self.call(target, score, *state, k, room, gamma, policy, site, **self._dense())
        mask, *after = (self.call(_getitem(), chosen, i) for i in range(5))
        self.carried += after
        return mask

    def units(self, where: str) -> int:
        """Units of a site: d_model at "input", d_ff at "glu"."""
        sizes = {"input": self.mlp.d_model, "glu": self.mlp.d_ff}
        if where not in sizes:
            raise UsageError(f"a method selects at 'input' or 'glu', not at {where!r}")
        return sizes[where]

    def site(self, where: str) -> str:
        """The site's name in traces and reports, claimed once: two selections at one place could not be told apart."""
        name = f"{self.mlp.site_prefix}.{where}"
        if name in self.sites:
            raise UsageError(f"a method may select once at {where!r} of each MLP; {name} is taken")
        self.sites.add(name)
        return name

    def _dense(self) -> dict[str, fx.Node]:
        if self.scope == "all":
            return {}
        found = [n for n in self.node.graph.nodes if n.op == "placeholder" and n.name == "dense"]
        return {"dense": found[0] if found else self._port(Port("dense", "dense", TensorType("bool", (1, "seq"))))}

    def _port(self, port: Port) -> fx.Node:
        last = [n for n in self.node.graph.nodes if n.op == "placeholder"][-1]
        with self.node.graph.inserting_after(last):
            node = self.node.graph.placeholder(port.name)
        self.ports.append(port)
        return node


def _getitem() -> Any:
    import operator

    return operator.getitem


def _short_name(target: Any) -> str:
    """`aten.mul.Tensor` -> `mul`: what a node of it is called, before the graph makes the name unique."""
    schema = getattr(target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else str(target.__name__)


def kept_units(density: float, units: int) -> int:
    """Units to keep: density times units, rounded half up, at least one."""
    return max(1, math.floor(density * units + 0.5))


@dataclass(frozen=True)
class SparsityPass(Pass):
    """Base of the sparsification methods.

    Attributes:
        density: kept weights of all weights of the MLP, in (0, 1].
        scope: `all` sparsifies every token by itself, as the paper evaluates; `decode` leaves the prompt dense.
        layers: which layers: `all`, or indices and ranges such as `0-3,7,-1`.
    """

    requires: ClassVar[tuple[str, ...]] = ("outline-glu",)
    density: float = 0.5
    scope: Scope = "all"
    layers: str = "all"

    def __post_init__(self) -> None:
        check_density(self.name, "density", self.density)
        if self.scope not in get_args(Scope):
            raise UsageError(f"{self.name}: scope={self.scope}: choose {' or '.join(get_args(Scope))}")

    def rewrite(self, glu: Glu) -> fx.Node:
        """The MLP's output [1, T, D], computed by this method."""
        raise NotImplementedError

    def exact(self) -> Pass:
        """This method keeping everything."""
        return dataclasses.replace(self, density=1.0)

    def run(self, program: Program) -> PassResult:
        """Rewrite every selected `glu` node."""
        from dipc.lower import program_density

        graph = program.edit()
        chosen = select_layers(self.name, self.layers, program.info.layers)
        by_name = {m.name: m for m in program.mlps}
        ports: list[Port] = []
        carried: list[fx.Node] = []
        done: list[str] = []
        skipped: list[Mismatch] = []
        for node in [n for n in graph.nodes if n.target is ops.target("glu")]:
            mlp = by_name[node.meta["module"]]
            if mlp.layer not in chosen:
                skipped.append(Mismatch(f"layer {mlp.layer} is not among layers={self.layers}", mlp.name))
                continue
            node.replace_all_uses_with(self.rewrite(Glu(program, mlp, node, self.scope, ports, carried)))
            graph.erase_node(node)
            done.append(mlp.name)
        untouched = set(by_name) - set(done) - {m.where for m in skipped}
        skipped += [Mismatch("already rewritten by another method", m) for m in sorted(untouched)]
        output = next(n for n in graph.nodes if n.op == "output")
        output.args = ((*output.args[0], *carried),)
        states = tuple(p.name for p in ports if p.kind == "state")
        order = {n.name: i for i, n in enumerate(n for n in graph.nodes if n.op == "placeholder")}
        inputs = tuple(sorted((*program.inputs, *ports), key=lambda p: order[p.name]))
        after = program.replace(graph=graph, inputs=inputs, outputs=(*program.outputs, *states))
        if done:
            method = joined(program.method, Method(self.name, program_density(after), self.scope, str(self)))
            after = after.replace(method=method, dense=program.reference)
        return PassResult(after, tuple(done), tuple(skipped))


def joined(first: Method, second: Method) -> Method:
    """The method of a program on which two were applied, each to its own layers; a dense one may be quantised."""
    if first.name == "dense":
        return dataclasses.replace(second, options=",".join(filter(None, (first.options, second.options))))
    if first.scope != second.scope:
        raise UsageError(f"{first.options} and {second.options} differ in scope; a program has one")
    return Method(f"{first.name}+{second.name}", second.density, second.scope, f"{first.options},{second.options}")


def check_density(name: str, option: str, value: float) -> None:
    """UsageError unless 0 < value <= 1."""
    if not 0 < value <= 1:
        raise UsageError(f"{name}: {option}={value:g} is outside (0, 1]; 1 keeps every weight")


def select_layers(name: str, text: str, layers: int) -> set[int]:
    """`all`, or `0-3,7,-1` -> layer indices. UsageError for what is not there."""
    if text == "all":
        return set(range(layers))
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part.strip(), "", "")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            raise UsageError(f"{name}: layers={text}: {part!r} is no index or range; write 0-3,7,-1") from None
        low, high = (i + layers if i < 0 else i for i in (low, high))
        if not 0 <= low <= high < layers:
            raise UsageError(f"{name}: layers={text}: {part} is not within the model's layers 0-{layers - 1}")
        chosen |= set(range(low, high + 1))
    return chosen
