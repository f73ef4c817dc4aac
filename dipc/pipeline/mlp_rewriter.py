"""One gated MLP as a method sees it: its matrices, and the tools to compute it anew.

Methods work in the terms of the paper (scores, masks, products) and never see ports, names or indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import getitem
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from dipc.cache.state import STATE
from dipc.errors import UsageError
from dipc.ir import operators
from dipc.ir.operator import argument, is_stored_in_parts
from dipc.ir.program import Mlp, Port, Program, TensorType
from dipc.ir.selections import kept_units
from dipc.ops.glu import ACTIVATIONS

Scope = Literal["all", "decode"]
ATEN = torch.ops.aten


@dataclass(frozen=True)
class Matrix:
    """A weight of the MLP and its bias, as graph nodes."""

    weight: fx.Node
    bias: fx.Node | None


@dataclass
class MlpRewriter:
    """One gated MLP that a method rewrites, and the tools to do it.

    `x` [1, T, D] is its input; `gate`, `up` [F, D] and `down` [D, F] its matrices. The methods below add nodes.
    `chosen` are all MLPs that the pass rewrites; `weights`, `ports` and `carried` collect what it adds to the program.
    """

    program: Program
    info: Mlp
    node: fx.Node
    scope: Scope
    chosen: Sequence[Mlp]
    weights: dict[str, Tensor]
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
        node.meta = {"module": self.info.name}
        return node

    def weight(self, name: str, value: Tensor) -> fx.Node:
        """A tensor of the method's own as a weight `<the MLP's name>.<name>`; it is resident, every token reads it."""
        return self._add(f"{self.info.name.replace('#', '_')}.{name}", value)

    def _constant(self, name: str, value: Tensor) -> fx.Node:
        """A tensor that comes with the program and is none of its parameters: what the device's cache is told."""
        return self._add(f"constant.{self.info.name.replace('#', '_')}.{name}", value)

    def _add(self, full: str, value: Tensor) -> fx.Node:
        if full in self.weights:
            raise UsageError(f"a method may add a weight once to each MLP; {full} is taken")
        self.weights[full] = value.to(self.like.device)
        with self.node.graph.inserting_before(self.node):
            return self.node.graph.get_attr(full)

    @cached_property
    def like(self) -> Tensor:
        """An empty tensor of the dtype that the MLP is computed in, on the device where it is."""
        return self.value(self.gate).new_empty(0)

    def value(self, matrix: Matrix) -> Tensor:
        """A matrix as products take it: of one that is stored in parts, what they stand for."""
        node, held = matrix.weight, self.program.weights
        if not is_stored_in_parts(node):
            return held[str(node.target)]
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: held[str(n.target)])
        value: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return value

    def norms(self, where: str) -> fx.Node:
        """For each unit of a site, float32 [U], the norm of its column: of gate and up stacked, or of down."""
        matrices = (self.gate, self.up) if where == "input" else (self.down,)
        columns = [torch.linalg.vector_norm(self.value(m), dim=0, dtype=torch.float32) for m in matrices]
        return self.weight(f"norm.{where}", torch.linalg.vector_norm(torch.stack(columns), dim=0))

    def abs(self, x: fx.Node) -> fx.Node:
        """|x|."""
        return self.call(ATEN.abs.default, x)

    def product(self, a: fx.Node, b: fx.Node) -> fx.Node:
        """a * b, elementwise."""
        return self.call(ATEN.mul.Tensor, a, b)

    def activate(self, x: fx.Node) -> fx.Node:
        """The MLP's own activation."""
        target, options = ACTIVATIONS[self.info.activation]
        return self.call(target, x, **options)

    def linear(self, x: fx.Node, matrix: Matrix) -> fx.Node:
        """W x + b, the whole matrix."""
        return self.call(ATEN.linear.default, x, matrix.weight, matrix.bias)

    def gather_linear(self, x: fx.Node, mask: fx.Node, matrix: Matrix) -> fx.Node:
        """W x + b from the kept columns only."""
        return self.call(operators.target("gather_linear"), x, mask, matrix.weight, matrix.bias)

    def row_linear(self, x: fx.Node, mask: fx.Node, matrix: Matrix) -> fx.Node:
        """The kept rows of W x + b, zero elsewhere."""
        return self.call(operators.target("row_linear"), x, mask, matrix.weight, matrix.bias)

    def select_topk(self, score: fx.Node, density: float, where: str) -> fx.Node:
        """A mask of the largest scores: `density` of the units of the site `where` ("input" or "glu")."""
        k = kept_units(density, self.units(where))
        return self.call(operators.target("select_topk"), score, k, self.site(where), **self._dense())

    def select_threshold(self, score: fx.Node, threshold: float, density: float, where: str) -> fx.Node:
        """A mask of the scores that reach a threshold, which is expected of the fraction `density` of them."""
        target = operators.target("select_threshold")
        return self.call(target, score, threshold, density, self.site(where), **self._dense())

    def select_cache_aware(
        self,
        score: fx.Node,
        density: float,
        where: str,
        *,
        gamma: float,
        policy: str,
        capacity: float,
        claim: float = 1.0,
        popularity: Tensor | None = None,
    ) -> fx.Node:
        """A mask that prefers cached units (Eq. 10); the cache's state becomes carried ports of the program.

        `capacity` is the fraction of the site's units that the cache holds, and `claim` what the site has a claim to
        for each of its bytes, beside the MLP's other site, where a device decides that; `popularity`, int64 [U], what
        its policy ranks units by where it does not count how often they are touched.
        """
        units = self.units(where)
        site = self.site(where)
        prefix = site.replace(".", "_")
        kinds: dict[str, tuple[str, tuple[int, ...], int | bool]] = {
            "cached": ("bool", (units,), False),
            "freq": ("int64", (units,), 0),
            "last_used": ("int64", (units,), -1),
            "t": ("int64", (), 0),
        }
        if popularity is not None:
            del kinds["freq"]
        state = {n: self._port(Port(f"{prefix}_{n}", "state", TensorType(d, s), f)) for n, (d, s, f) in kinds.items()}
        if popularity is not None:
            state["freq"] = self._constant(f"popularity.{where}", popularity)
        k, room = kept_units(density, units), min(units, math.floor(capacity * units))
        given = (score, *(state[n] for n in STATE), k, room, gamma, policy, site)
        chosen = self.call(operators.target("select_cache_aware"), *given, claim=claim, **self._dense())
        mask = self.call(getitem, chosen, 0)
        self.carried += [self.call(getitem, chosen, 1 + STATE.index(n)) for n in kinds]
        return mask

    def units(self, where: str) -> int:
        """Units of a site: d_model at "input", d_ff at "glu"."""
        sizes = {"input": self.info.d_model, "glu": self.info.d_ff}
        if where not in sizes:
            raise UsageError(f"a method selects at 'input' or 'glu', not at {where!r}")
        return sizes[where]

    def site(self, where: str) -> str:
        """The site's name in traces and reports, given once: two selections at one place could not be told apart."""
        name = str(self.info.site(where))
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


def _short_name(target: Any) -> str:
    """`aten.mul.Tensor` -> `mul`: what a node of it is called, before the graph makes the name unique."""
    schema = getattr(target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else str(target.__name__)
