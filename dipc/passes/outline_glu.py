"""`outline-glu`: make every gated MLP one `glu` node, whatever family it comes from.

First canonicalise (a fused gate_up projection becomes two linears over the halves of its weight), then match one
pattern per activation. Every method starts from the `glu` nodes and needs to know no family.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from dipc.ir.operator import argument, is_dequantized, weight_name
from dipc.ir.pattern import Match, Mismatch, Pattern
from dipc.ir.program import Mlp, Program
from dipc.ir.stored_weight import codes_of, put_codes
from dipc.ir.weight_parts import weight_of
from dipc.ops.dequantize import OPERATOR as DEQUANTIZE_OPERATOR
from dipc.ops.glu import ACTIVATIONS
from dipc.ops.glu import OPERATOR as GLU
from dipc.passes._near_glu import near_glu
from dipc.pipeline.pass_ import Pass, PassResult

ATEN = torch.ops.aten
LINEAR = ATEN.linear.default
MUL = ATEN.mul.Tensor
DEQUANTIZE = DEQUANTIZE_OPERATOR.target
GATES = tuple(target for target, _ in ACTIVATIONS.values())
_PRODUCT = 2  # nodes of a pattern down to the product, which many a linear follows that is no MLP's
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "experts")


def _gelu_new(x: Any) -> Any:
    cubic = ATEN.add.Tensor(x, MUL(ATEN.pow.Tensor_Scalar(x, 3.0), 0.044715))
    return MUL(MUL(x, 0.5), ATEN.add.Tensor(ATEN.tanh.default(MUL(cubic, math.sqrt(2.0 / math.pi))), 1.0))


def _gelu_fast(x: Any) -> Any:
    inner = MUL(MUL(x, 0.7978845608), ATEN.add.Tensor(MUL(MUL(x, 0.044715), x), 1.0))
    return MUL(MUL(x, 0.5), ATEN.add.Tensor(ATEN.tanh.default(inner), 1.0))


def _gelu_python(x: Any) -> Any:
    return MUL(MUL(x, 0.5), ATEN.add.Tensor(ATEN.erf.default(ATEN.div.Tensor(x, math.sqrt(2.0))), 1.0))


SPELLED = (("gelu_tanh", _gelu_new), ("gelu_tanh", _gelu_fast), ("gelu", _gelu_python))
"""Activations that a model's code spells out, with the name of the one operator that computes the same."""


def _pattern(activate: Callable[[Any], Any]) -> Pattern:
    def gated_mlp(x: Any, gate: Any, up: Any, down: Any, bias_gate: Any, bias_up: Any, bias_down: Any) -> Any:
        hidden = MUL(activate(LINEAR(x, gate, bias_gate)), LINEAR(x, up, bias_up))
        return LINEAR(hidden, down, bias_down)

    return Pattern(gated_mlp)


def _patterns() -> list[tuple[str, Pattern]]:
    """Each with the name of its activation."""
    called = [(name, _pattern(partial(target, **options))) for name, (target, options) in ACTIVATIONS.items()]
    return [*called, *((name, _pattern(spelled)) for name, spelled in SPELLED)]


@dataclass(frozen=True)
class OutlineGlu(Pass):
    """Collect each gated MLP (Eq. 1 and 2) into one `glu` node."""

    def done(self, program: Program) -> bool:
        """Return whether gated MLPs were outlined before."""
        return bool(program.mlps)

    def run(self, program: Program) -> PassResult:
        """Rewrite all gated MLPs; modules that look like an MLP and are none are listed with the reason."""
        graph, weights = program.edit(), dict(program.weights)
        split_fused(graph, weights)
        patterns = _patterns()
        mlps: list[Mlp] = []
        failures: dict[str, Mismatch] = {}
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target is not LINEAR or not _after_product(node):
                continue
            found = _first_match(patterns, node)
            where = mlp_path(str(node.meta.get("module", "")))
            if isinstance(found, Mismatch):
                known = failures[where].matched if where in failures else _PRODUCT
                if where and found.matched > known:
                    failures[where] = Mismatch(found.reason, where, found.node, found.matched)
            else:
                mlps.append(_outline(graph, found[1], found[0], where, mlps, weights))
        done = {m.name.partition("#")[0] for m in mlps}
        for module in {mlp_path(str(n.meta.get("module", ""))) for n in graph.nodes} - {""} - done:
            failures.setdefault(
                module, Mismatch("no product of an activated gate with a second linear: not a gated MLP", module)
            )
        graph.eliminate_dead_code()
        after = program.replace(graph=graph, weights=weights, mlps=(*program.mlps, *_placed(mlps)))
        skipped = tuple(failures[m] for m in sorted(failures, key=_natural) if m not in done)
        return PassResult(after, tuple(m.name for m in mlps), skipped)


def _placed(mlps: list[Mlp]) -> list[Mlp]:
    """Number the MLPs of layers that have several."""
    layers = [m.layer for m in mlps]
    return [
        dataclasses.replace(m, place=layers[:i].count(m.layer)) if layers.count(m.layer) > 1 else m
        for i, m in enumerate(mlps)
    ]


def split_fused(graph: fx.Graph, weights: dict[str, Tensor]) -> None:
    """Phi-3 and GLM compute gate and up in one linear and cut the result in two: cut the weight instead."""
    for cut in list(graph.nodes):
        if cut.op != "call_function" or cut.target not in (ATEN.chunk.default, ATEN.split.Tensor):
            continue
        fused = cut.args[0]
        parts = {u.args[1]: u for u in cut.users if u.op == "call_function" and "getitem" in str(u.target)}
        along_last = (cut.args[2] if len(cut.args) > 2 else cut.kwargs.get("dim", 0)) in (-1, 2)
        whole = fused.op == "call_function" and fused.target is LINEAR and len(fused.users) == 1
        if not whole or not along_last or set(parts) != {0, 1} or not _has_rows(fused.args[1]):
            continue
        if not any(user.target in GATES for part in parts.values() for user in part.users):
            continue
        rows = _shape(fused.args[1], weights)[0]
        if cut.args[1] != (2 if cut.target is ATEN.chunk.default else rows // 2) or rows % 2:
            continue
        for index, label in enumerate(("gate_proj", "up_proj")):
            with graph.inserting_before(fused):
                halves = [_half(graph, weights, a, index, label) for a in fused.args[1:]]
            with graph.inserting_before(cut):
                half = graph.call_function(LINEAR, (fused.args[0], *halves))
            half.meta = {"module": fused.meta.get("module", "")}
            parts[index].replace_all_uses_with(half)
    graph.eliminate_dead_code()


def _half(
    graph: fx.Graph, weights: dict[str, Tensor], weight: fx.Node | None, index: int, label: str
) -> fx.Node | None:
    if weight is None:
        return None
    name = weight_of(weight_name(weight))
    parent, _, leaf = name.rpartition(".")
    new = f"{parent}.{label}.{leaf}"
    rows = weights[weight_name(weight)].shape[0] // 2
    half = slice(index * rows, (index + 1) * rows)
    if is_dequantized(weight):
        node = put_codes(graph, weights, new, codes_of(weight, weights).rows(half), argument(weight, "dtype"))
    else:
        weights[new] = weights[name][half]
        node = graph.get_attr(new)
    node.meta = {"module": parent}  # the layer that the half is of
    return node


def _is_weight(value: object) -> bool:
    """Return whether a matrix is there as it is or as codes, and not computed in another way."""
    return isinstance(value, fx.Node) and (value.op == "get_attr" or value.target is DEQUANTIZE)


def _has_rows(value: object) -> bool:
    """Return whether rows of a matrix can be taken by themselves."""
    return _is_weight(value) and (not is_dequantized(value) or argument(value, "axis") == 1)  # type: ignore[arg-type]


def _shape(value: fx.Node, weights: Mapping[str, Tensor]) -> tuple[int, int]:
    if is_dequantized(value):
        return codes_of(value, weights).shape
    rows, columns = weights[str(value.target)].shape
    return rows, columns


def _after_product(node: fx.Node) -> bool:
    source = node.args[0]
    return isinstance(source, fx.Node) and source.op == "call_function" and source.target is MUL


def _first_match(patterns: list[tuple[str, Pattern]], node: fx.Node) -> tuple[str, Match] | Mismatch:
    """The first pattern that is there; else why the nearest, of those with an operator for the activation, is not."""
    nearest = near_glu(node)
    for number, (name, pattern) in enumerate(patterns):
        found = pattern.match(node)
        if isinstance(found, Match):
            weights = [found.bound[k] for k in ("gate", "up", "down")]
            if all(_is_weight(w) for w in weights):
                return name, found
            where = str(node.meta.get("module", ""))
            found = Mismatch("a weight is computed by the graph", where, node.name, len(found.nodes))
        if number < len(ACTIVATIONS) and (nearest is None or found.matched > nearest.matched):
            nearest = found
    assert nearest is not None
    return nearest


def _outline(
    graph: fx.Graph, match: Match, activation: str, where: str, before: list[Mlp], weights: dict[str, Tensor]
) -> Mlp:
    b = match.bound
    order = ("x", "gate", "up", "down", "bias_gate", "bias_up", "bias_down")
    with graph.inserting_before(match.root):
        arguments = (*(b[k] for k in order), activation)
        node = graph.create_node("call_function", GLU.target, arguments, name="glu")
    layer = re.findall(r"\.(\d+)\.", f".{match.root.meta.get('module', '')}.")
    name = where or str(match.root.meta.get("module", "")).rpartition(".")[0] or "mlp"
    alike = sum(m.name == name or m.name.startswith(f"{name}#") for m in before)
    name = f"{name}#{alike}" if alike else name
    node.meta = {"module": name}
    match.root.replace_all_uses_with(node)
    _erase_unread(graph, match.root)
    d_ff, d_model = _shape(b["up"], weights)
    gate, up, down = (weight_of(weight_name(b[k])) for k in ("gate", "up", "down"))
    return Mlp(name, int(layer[0]) if layer else len(before), gate, up, down, d_model, d_ff, activation)


def _erase_unread(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node that nobody reads, and of what it read what nobody else reads."""
    waiting, erased = [node], set[fx.Node]()
    while waiting:
        last = waiting.pop()
        if last in erased or last.users or last.op == "placeholder":
            continue
        waiting += last.all_input_nodes
        graph.erase_node(last)
        erased.add(last)


def mlp_path(module: str) -> str:
    """The enclosing module that is called like an MLP: `model.layers.0.mlp.up_proj` -> `model.layers.0.mlp`."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1] in MLP_NAMES:
            return ".".join(parts[:end])
    return ""


def _natural(text: str) -> list[Any]:
    key: Callable[[str], Any] = lambda s: (0, int(s)) if s.isdigit() else (1, s)  # noqa: E731
    return [key(s) for s in text.split(".")]
