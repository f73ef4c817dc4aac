"""What the quantising passes share: which weights are rounded, along which dim, and how the graph reads them after.

A weight keeps its place in the graph: a `dequantize` node stands where it stood, before its first reader.

A table that embeds tokens and is also the matrix of a linear layer (a tied head, as in Llama-3.2-1B) is then stored
twice: lookups keep it at its width, and the head reads a copy in codes. A token reads one row of the table but all of
the head, which at 16 bits is a good part of what a small INT4 model reads; rounding the lookups would save room and no
time, at the cost of precision. ONNX Runtime GenAI's model builder stores such models so too, unless it is asked for
`shared_embeddings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from dipc.errors import UsageError
from dipc.ops.dequantize import OPERATOR as DEQUANTIZE
from dipc.ops.operator import argument, has_argument, is_dequantized
from dipc.pattern import Mismatch
from dipc.pipeline import Pass, PassResult
from dipc.printer import op_name
from dipc.program import Program, is_buffer
from dipc.quantize import QuantizedTensor, round_to_nearest
from dipc.storage import copy_of, part_of, values_per_entry, weight_of

GROUPS = (32, 64, 128)
EMBEDDING = torch.ops.aten.embedding.default
# Linear layers and the arguments that are their matrices.
_LINEARS: dict[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "glu": ("w_gate", "w_up", "w_down"),
    "gather_linear": ("weight",),
    "row_linear": ("weight",),
}


@dataclass(frozen=True)
class QuantizingPass(Pass):
    """Base of the passes that round weights to codes with a 16-bit scale per group.

    Linear layers outside the gated MLPs are always grouped along their inputs: nothing selects units there, and that is
    the form that other kernels take.

    Attributes:
        group: weights that share a scale: 32, 64 or 128.
        axis: what the groups of an MLP's matrix run along: its outputs, or its inputs.
        symmetric: zero is the middle code; otherwise every group has a zero point of its own.
        weights: the linear layers of the whole model, or only those of the gated MLPs.
    """

    requires: ClassVar[tuple[str, ...]] = ("outline-glu",)
    bits: ClassVar[int] = 0
    group: int = 64
    axis: Literal["inputs", "outputs"] = "outputs"
    symmetric: bool = True
    weights: Literal["all", "mlp"] = "all"

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise UsageError(f"{self.name}: group={self.group}: choose one of {', '.join(map(str, GROUPS))}")
        for option, known in (("axis", ("inputs", "outputs")), ("weights", ("all", "mlp"))):
            if getattr(self, option) not in known:
                raise UsageError(f"{self.name}: {option}={getattr(self, option)}: choose {' or '.join(known)}")

    def run(self, program: Program) -> PassResult:
        """Quantise the program and the dense one it is compared with, so that both have one precision.

        Raises UsageError where matrices were packed before they were quantised.
        """
        for node in program.graph.nodes:
            if has_argument(node, "units") and has_argument(node, "bits") and not argument(node, "bits"):
                raise UsageError(
                    f"{self.name}: %{node.name} reads a matrix that is packed; put {self.name} before pack"
                )
        programs = [program] if program.dense is None else [program, program.dense]
        in_mlps = {name for m in program.mlps for name in (m.gate, m.up, m.down)}
        readers = _readers(p.graph for p in programs)
        made: dict[str, QuantizedTensor] = {}
        skipped: list[Mismatch] = []
        matrices = self._matrices(programs, in_mlps)
        for name, weight in matrices.items():
            reason = self._obstacle(name, weight, readers[name])
            if reason is not None:
                skipped.append(Mismatch(reason, weight_of(name).removesuffix(".weight")))
                continue
            axis = 0 if self.axis == "outputs" and name in in_mlps else 1
            made[name] = round_to_nearest(weight, self.bits, self.group, axis, self.symmetric)
        if not made:
            return PassResult(program, (), tuple(skipped))
        stems = {n: copy_of(n) if any(r.target is EMBEDDING for r in readers[n]) else n for n in made}
        after, *dense = (self._rewritten(p, made, stems) for p in programs)
        after = after.replace(dense=dense[0]) if dense else after
        return PassResult(after, tuple(name.removesuffix(".weight") for name in made), tuple(skipped))

    def _matrices(self, programs: Iterable[Program], in_mlps: Collection[str]) -> dict[str, Tensor]:
        """The matrices that the pass is about; of what is quantised already the codes, to say so."""
        found: dict[str, Tensor] = {}
        for program in programs:
            held = values_per_entry(program.graph)
            for name, weight in program.weights.items():
                about = self.weights == "all" or weight_of(name) in in_mlps
                if about and weight.dim() == 2 and not is_buffer(name) and held.get(name) != 0:
                    found[name] = weight
        return found

    def _obstacle(self, name: str, weight: Tensor, readers: list[fx.Node]) -> str | None:
        """Why a matrix stays as it is, or None."""
        if any(is_dequantized(n) for n in readers):
            return "it is quantised already"
        if readers and all(n.target is EMBEDDING for n in readers):
            return "it is a table of which rows are looked up"
        others = [n for n in readers if n.target is not EMBEDDING and not _multiplies(n, name)]
        if others:
            return f"{op_name(others[0].target)} reads it, which is no linear layer"
        if not weight.is_floating_point():
            return f"its values are {str(weight.dtype).removeprefix('torch.')}, not floating"
        if self.bits == 4 and weight.shape[1] % 2:
            return f"its {weight.shape[1]} columns are an odd number, and two 4-bit codes share a byte"
        if weight.device.type != "meta" and not bool(weight.isfinite().all()):
            return "some of its values are not finite"
        return None

    def _rewritten(self, program: Program, made: Mapping[str, QuantizedTensor], stems: Mapping[str, str]) -> Program:
        graph, weights = program.edit(), dict(program.weights)
        order = {node: i for i, node in enumerate(graph.nodes)}
        for node in [n for n in graph.nodes if n.op == "get_attr" and n.target in made]:
            name = str(node.target)
            if not node.users:  # a method had no use for it
                graph.erase_node(node)
                continue
            products = [user for user in node.users if user.target is not EMBEDDING]
            if not products:
                continue
            # Not where the weight stood: all matrices would be held in full at once.
            first = min(products, key=order.__getitem__)
            with graph.inserting_before(first):
                arguments = (*_parts(graph, weights, stems[name], made[name]), weights[name].dtype)
                value = graph.create_node("call_function", DEQUANTIZE.target, arguments, name="dequantize")
            value.meta = {"module": first.meta.get("module", "")}
            for user in products:
                user.replace_input_with(node, value)
            if not node.users:
                graph.erase_node(node)
        options = ",".join(filter(None, (program.method.options, str(self))))
        method = dataclasses.replace(program.method, options=options)
        return program.replace(graph=graph, weights=weights, method=method)


def _readers(graphs: Iterable[fx.Graph]) -> dict[str, list[fx.Node]]:
    """Weight -> the nodes that take it, in all graphs."""
    found: dict[str, list[fx.Node]] = {}
    for node in (n for graph in graphs for n in graph.nodes if n.op == "get_attr"):
        found.setdefault(str(node.target), []).extend(node.users)
    return found


def _multiplies(node: fx.Node, name: str) -> bool:
    """Whether a node is a linear layer that takes the weight as a matrix, and as nothing else."""
    schema = getattr(node.target, "_schema", None)
    kind = "" if schema is None else str(schema.name).partition("::")[2]
    matrices = [argument(node, a) for a in _LINEARS.get(kind, ())]
    return _times(name, matrices) == _times(name, (*node.args, *node.kwargs.values())) > 0


def _times(name: str, values: Iterable[Any]) -> int:
    return sum(isinstance(v, fx.Node) and v.op == "get_attr" and v.target == name for v in values)


def _parts(graph: fx.Graph, weights: dict[str, Any], stem: str, tensor: QuantizedTensor) -> tuple[Any, ...]:
    """The arguments of `dequantize` but the dtype, their tensors put among the weights."""
    nodes: list[fx.Node | None] = []
    for part, value in (("codes", tensor.codes), ("scales", tensor.scales), ("zeros", tensor.zeros)):
        if value is not None:
            weights[part_of(stem, part)] = value
        nodes.append(None if value is None else graph.get_attr(part_of(stem, part)))
    return (*nodes, tensor.bits, tensor.group, tensor.axis)
