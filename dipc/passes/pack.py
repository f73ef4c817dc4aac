"""`pack`: the matrices of pruned products unit by unit, so that a few tokens read what they keep and nothing else.

What a method writes stays what it means: `gather_linear` and `row_linear` become their packed forms, and gate and up,
where they read by one mask, one product whose units are both columns. Sites, state and traffic are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from dipc.errors import UsageError
from dipc.ir import operators
from dipc.ir.operator import argument, is_dequantized, is_unmasked
from dipc.ir.pattern import Match, Mismatch, Pattern
from dipc.ir.printer import op_name
from dipc.ir.program import Program
from dipc.ir.selections import expected_units
from dipc.ir.stored_weight import codes_of
from dipc.ops._packed import FLOATS, PackedMatrix
from dipc.ops.glu import ACTIVATIONS
from dipc.pipeline.pass_ import Pass, PassResult

NATIVE, WIDENED = (4, 8), (5, 6)
"""Bits of codes that packed products take, and of those that are stored in 8 for them."""

MUL = torch.ops.aten.mul.Tensor
GATHER, ROW, DEQUANTIZE = (operators.target(name) for name in ("gather_linear", "row_linear", "dequantize"))


def _pattern(activation: str) -> Pattern:
    act, options = ACTIVATIONS[activation]

    def gated(x: Any, mask: Any, gate: Any, up: Any, bias_gate: Any, bias_up: Any) -> Any:
        return MUL(act(GATHER(x, mask, gate, bias_gate), **options), GATHER(x, mask, up, bias_up))  # type: ignore[operator]

    return Pattern(gated)


@dataclass(frozen=True)
class Pack(Pass):
    """Store the matrices of pruned products unit by unit, for kernels that read the kept units only.

    Attributes:
        dense_above: kept fraction of the units from which on a product with float weights stays as it is, a dense one
            of masked inputs; with quantised weights it is packed in any case.
    """

    # A model of 16 bits rounds in fewer places than before, and a unit at the edge may change sides; float32 is exact.
    tolerance: ClassVar[float] = 0.05
    dense_above: float = 1.0

    def __post_init__(self) -> None:
        if not self.dense_above >= 0:  # NaN is no fraction either
            raise UsageError(
                f"{self.name}: dense_above={self.dense_above:g} is no fraction of the units; give 0 or more"
            )

    def run(self, program: Program) -> PassResult:
        """Rewrite all pruned products; what stays is listed with the reason. `program.dense` is left alone."""
        work = _Packing(program.edit(), dict(program.weights), self.dense_above)
        patterns = {name: _pattern(name) for name in ACTIVATIONS}
        for node in [n for n in work.graph.nodes if n.target is MUL]:
            for activation, pattern in patterns.items():
                if isinstance(match := pattern.match(node), Match):
                    work.bundle(match, activation)
                    break
        for node in [n for n in work.graph.nodes if n.target in (GATHER, ROW)]:
            work.pack(node)
        after = program.replace(graph=work.graph, weights=work.weights)
        return PassResult(after, tuple(dict.fromkeys(work.matches)), tuple(work.mismatches))


class _Stays(Exception):
    """Why a product is not packed."""


@dataclass
class _Packing:
    """The graph and the weights that are being rewritten, and what became of the products."""

    graph: fx.Graph
    weights: dict[str, Tensor]
    dense_above: float
    matches: list[str] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    made: dict[str, tuple[PackedMatrix, str]] = field(default_factory=dict)

    def pack(self, node: fx.Node) -> None:
        """One product by itself."""
        value, mask = argument(node, "weight"), argument(node, "mask")
        try:
            stored = self._stored(value)
            if node.target is ROW:
                self._worth_it(stored, mask, stored.shape[0])
                is_wider = is_dequantized(value) and argument(value, "bits") in WIDENED
                matrix, base = stored, _base(_name(value)) if is_wider else ""
                target = operators.target("packed_row_linear")
            else:
                self._worth_it(stored, mask, stored.shape[1])
                (matrix, base), target = self._turned(value, stored), operators.target("packed_gather_linear")
        except _Stays as reason:
            self.mismatches.append(Mismatch(str(reason), str(node.meta.get("module", "")), node.name))
            return
        with self.graph.inserting_before(node):
            *tensors, minima = self._named(base, matrix) if base else _parts(value)
            arguments = (argument(node, "x"), mask, *tensors, argument(node, "bias"), *matrix.format)
        self._replace(node, target, arguments, minima)

    def bundle(self, match: Match, activation: str) -> None:
        """Gate, up and what the activation makes of them as one product, where both are stored alike."""
        b = match.bound
        try:
            gate, up = (self._stored(b[m]) for m in ("gate", "up"))
            self._worth_it(gate, b["mask"], gate.shape[1])
            if any(len(list(self._readers(_name(b[m])))) > 1 for m in ("gate", "up")):
                return
            matrix = _turn(gate).concat(_turn(up))
        except _Stays:
            return
        if matrix is None:
            return
        base = f"{_base(_name(b['gate']))}_{_base(_name(b['up'])).rpartition('.')[2]}"
        with self.graph.inserting_before(match.root):
            *tensors, minima = self._named(base, matrix)
            biases = (b["bias_gate"], b["bias_up"])
            arguments = (b["x"], b["mask"], *tensors, *biases, *matrix.format, activation)
        self._replace(match.root, operators.target("packed_gather_glu"), arguments, minima)

    def _replace(self, node: fx.Node, target: Any, arguments: tuple[Any, ...], minima: fx.Node | None) -> None:
        with self.graph.inserting_before(node):
            name = str(target._schema.name).rpartition("::")[2]
            others: dict[str, Any] = {} if minima is None else {"minima": minima}
            new = self.graph.create_node("call_function", target, arguments, others, name=name)
        new.meta = {"module": node.meta.get("module", "")}
        node.replace_all_uses_with(new)
        self._erase(node)
        self.matches.append(str(new.meta["module"]))

    def _erase(self, node: fx.Node) -> None:
        """Take out a node, what only it used, and weights that nothing names any more, before the next is turned."""
        if node.users or node.op not in ("call_function", "get_attr"):
            return
        inputs = node.all_input_nodes
        self.graph.erase_node(node)
        if node.op == "get_attr" and not any(self._nodes_of(str(node.target))):
            del self.weights[str(node.target)]
        for value in inputs:
            self._erase(value)

    def _nodes_of(self, name: str) -> Iterator[fx.Node]:
        return iter(self.graph.find_nodes(op="get_attr", target=name))

    def _stored(self, value: fx.Node) -> PackedMatrix:
        """The matrix [O, I] that a product takes, as it is stored."""
        if is_unmasked(value):
            raise _Stays("its weight is pruned for good, and packed products take whole matrices")
        if is_dequantized(value) and value.target is not DEQUANTIZE:
            raise _Stays(f"{op_name(value.target)} makes its weight, and packed products take codes of dequantize")
        if is_dequantized(value):
            codes = codes_of(value, self.weights)
            if codes.bits not in (*NATIVE, *WIDENED):
                raise _Stays(f"its codes have {codes.bits} bits, and packed products take those of 4 and 8")
            return PackedMatrix.of_codes(codes if codes.bits in NATIVE else codes.widened(8))
        if value.op != "get_attr":
            raise _Stays("its weight is computed by the graph")
        weight = self.weights[str(value.target)]
        if weight.dtype not in FLOATS:
            kind = str(weight.dtype).removeprefix("torch.")
            raise _Stays(f"its weight is {kind}, and packed products take float32, float16, bfloat16, int8 or int4")
        return PackedMatrix(weight)

    def _worth_it(self, stored: PackedMatrix, mask: fx.Node, units: int) -> None:
        kept = expected_units(mask, units)
        if stored.bits or kept is None:
            return
        if kept >= self.dense_above * units:
            raise _Stays(f"{kept} of {units} units are kept, for which a dense product is as fast")

    def _turned(self, value: fx.Node, stored: PackedMatrix) -> tuple[PackedMatrix, str]:
        """The matrix with a row for each unit, and what its parts are named after."""
        name = _name(value)
        others = [n for n in self._readers(name) if n.target is not GATHER]
        if others:
            raise _Stays(f"{name} is also read by %{others[0].name}, which takes it as it is")
        if name not in self.made:
            self.made[name] = _turn(stored), _base(name)
        return self.made[name]

    def _readers(self, name: str) -> Iterator[fx.Node]:
        """The nodes that take a weight, or the matrix of its codes."""
        for user in (user for node in self._nodes_of(name) for user in node.users):
            yield from user.users if is_dequantized(user) else (user,)

    def _named(self, base: str, matrix: PackedMatrix) -> list[fx.Node | None]:
        """Units, scales, zeros and minima as nodes, put among the weights."""
        names = (f"{base}.{part}" for part in ("units", "scales", "zeros", "minima"))
        nodes: list[fx.Node | None] = []
        for name, tensor in zip(names, (*matrix.tensors, matrix.minima), strict=True):
            if tensor is not None:
                self.weights[name] = tensor
            nodes.append(None if tensor is None else self.graph.get_attr(name))
        return nodes


def _parts(value: fx.Node) -> list[Any]:
    """The nodes of a weight as it is stored: itself, or codes, scales, zeros and minima."""
    if not is_dequantized(value):
        return [value, None, None, None]
    return [argument(value, part) for part in ("codes", "scales", "zeros", "minima")]


def _name(value: fx.Node) -> str:
    return str(_parts(value)[0].target)


def _base(name: str) -> str:
    return name.removesuffix(".codes").removesuffix(".weight")


def _turn(stored: PackedMatrix) -> PackedMatrix:
    try:
        return stored.transposed()
    except ValueError as error:
        raise _Stays(str(error)) from None
