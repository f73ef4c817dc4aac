"""`widen`: weights that came, or were rounded, as codes as the floating point numbers that these stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from dipc.ir.operator import argument
from dipc.ir.program import Program
from dipc.ir.stored_weight import EMBEDDING, codes_of, values_of
from dipc.ir.weight_parts import weight_of
from dipc.ops.dequantize import OPERATOR as DEQUANTIZE
from dipc.ops.dequantize_rows import OPERATOR as DEQUANTIZE_ROWS
from dipc.pipeline.pass_ import Pass, PassResult


@dataclass(frozen=True)
class Widen(Pass):
    """Store weights of codes as numbers: before what changes weights (fuse-lora, sparsegpt) or rounds them anew.

    Matrices that were packed stay as they are.
    """

    tolerance: ClassVar[float] = 0.0

    def run(self, program: Program) -> PassResult:
        """Widen the program and the dense one it is compared with."""
        programs = [program] if program.dense is None else [program, program.dense]
        made: dict[str, Tensor] = {}
        after, *dense = (_widened(p, made) for p in programs)
        after = after.replace(dense=dense[0]) if dense else after
        return PassResult(after, tuple(name.removesuffix(".weight") for name in made), ())


def _widened(program: Program, made: dict[str, Tensor]) -> Program:
    """Widen one program; `made` holds what was widened before, and gets what is now."""
    graph, weights = program.edit(), dict(program.weights)
    for node in [n for n in graph.nodes if n.target in (DEQUANTIZE.target, DEQUANTIZE_ROWS.target)]:
        name = weight_of(str(argument(node, "codes").target))
        if name not in made:
            made[name] = weights.get(name, values_of(codes_of(node, weights), argument(node, "dtype")))
        weights[name] = made[name]
        with graph.inserting_before(node):
            new: fx.Node = graph.get_attr(name)
            if node.target is DEQUANTIZE_ROWS.target:
                new = graph.call_function(EMBEDDING, (new, argument(node, "indices")))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    return program.replace(graph=graph, weights=weights)
