"""One gated MLP worked by hand, on which every method keeps another unit or gives another output; and ways to run one.

Shape legend: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from dipc.ir.program import Program
from dipc.ir.selections import selections
from dipc.ir.verify import empty_port
from kit.tiny_models import one_glu

# Four units in the hidden layer, and each method would keep another one of them (relu, one unit kept, D = F = 4):
#
#   x = [4, -3, 2, 1]             its two largest magnitudes: units 0 and 1, so x^ = [4, -3, 0, 0]
#
#   unit  gate row     up row         g = relu(gate x)  u = up x  g u       g^ = relu(gate x^)  u^ = up x^  g^ u^
#   0     [1,0,0,0]    [-1,0,0,0]     4                 -4        -16       4                   -4          -16 <- dip
#   1     [1,0,1,0]    [0,0,1,1]      6                  3         18 <glu  4                    0            0
#   2     [2,0,0,1]    [0,0,0,1]      9 <- gate          1          9       8                    0            0
#   3     [0,0,1,0]    [1,-1,0,0]     2                  7 <- up   14       0                    7            0
X = torch.tensor([[[4.0, -3.0, 2.0, 1.0]]])
GATE = torch.tensor([[1.0, 0, 0, 0], [1, 0, 1, 0], [2, 0, 0, 1], [0, 0, 1, 0]])
UP = torch.tensor([[-1.0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [1, -1, 0, 0]])
DOWN = torch.tensor([[1.0, 5, 5, 5], [2, 6, 6, 6], [3, 7, 7, 7], [4, 8, 8, 8]])


def hand() -> Program:
    return one_glu(GATE, UP, DOWN)


def call(program: Program, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a one-MLP program, and the state after it; state that is not given starts as it does."""
    given = [(state or {}).get(p.name, empty_port(p, 0, 0)) for p in program.inputs[1:]]
    first, *after = program.module(x, *given)
    return first, dict(zip(program.outputs[1:], after, strict=True))


def masks(program: Program, x: Tensor) -> dict[str, list[list[int]]]:
    """The kept units of every site and token."""
    graph, found = program.edit(), selections(program)
    order = {n: i for i, n in enumerate(program.graph.nodes)}
    nodes = list(graph.nodes)
    nodes[-1].args = (tuple(nodes[order[n]] for n in found.values()),)
    values = fx.GraphModule(dict(program.weights), graph)(x, *(empty_port(p, 0, 0) for p in program.inputs[1:]))
    return {
        site: [[i for i, keep in enumerate(row) if keep] for row in mask[0].tolist()]
        for site, mask in zip(found, values, strict=True)
    }
