"""Watch a dense program's MLPs while it reads text, one window and one MLP at a time, so that nothing piles up.

Shape legend: T tokens of a window, D d_model, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.ir.finite import not_finite
from dipc.ir.operator import argument
from dipc.ir.placement import device_of
from dipc.ir.program import Mlp, Program
from dipc.ir.verify import empty_port
from dipc.ops.glu import ACTIVATIONS
from dipc.ops.glu import OPERATOR as GLU


@dataclass(frozen=True)
class Activity:
    """One MLP on one window: its input x [T, D], and what it computes of it, [T, F], before W_down.

    `gate` is W_gate x, `activated` act(W_gate x), `up` W_up x; the weights w_gate and w_up are [F, D], w_down [D, F].
    """

    mlp: Mlp
    x: Tensor
    gate: Tensor
    activated: Tensor
    up: Tensor
    w_gate: Tensor
    w_up: Tensor
    w_down: Tensor

    @property
    def glu(self) -> Tensor:
        """GLU(x) [T, F], Eq. 1."""
        return self.activated * self.up

    def score(self, name: str) -> Tensor:
        """The magnitudes that methods select by: |x|, |act(W_gate x)|, |W_up x| or |GLU(x)|."""
        return {"input": self.x, "gate": self.activated, "up": self.up, "glu": self.glu}[name].abs()


class Watcher(fx.Interpreter):
    """Runs the MLPs of a dense program, and all that leads to them, window by window.

    Args:
        program: with weights, outlined, and no method applied.
        see: called with every MLP's activity, in program order, while autograd is off.
    """

    def __init__(self, program: Program, see: Callable[[Activity], object]) -> None:
        graph = program.edit()
        output = next(n for n in graph.nodes if n.op == "output")
        output.args = (tuple(n for n in graph.nodes if n.target is GLU.target),)
        graph.eliminate_dead_code()  # the head: nobody looks at the logits
        super().__init__(fx.GraphModule(dict(program.weights), graph, class_name="Program"))
        self._program = program
        self._see = see
        self._mlps = {m.name: m for m in program.mlps}

    @torch.no_grad()
    def read(self, ids_T: Tensor) -> None:
        """Run one window by itself. NotFinite where NaN or infinity comes out of the last MLP."""
        device = device_of(self._program)
        given = {"tokens": ids_T[None].to(device), "positions": torch.arange(len(ids_T), device=device)[None]}
        ports = self._program.inputs
        outputs = self.run(*(given.get(p.kind, empty_port(p, len(ids_T), 0, str(device))) for p in ports))
        if not bool(outputs[-1].isfinite().all()):
            raise not_finite(self._program, ids_T)

    def run_node(self, n: fx.Node) -> Any:
        """Take `glu` nodes apart; all others as they are."""
        if n.target is not GLU.target:
            return super().run_node(n)
        names = ("x", "w_gate", "w_up", "w_down", "b_gate", "b_up", "b_down")
        x, w_gate, w_up, w_down, b_gate, b_up, b_down = (self._value(argument(n, name)) for name in names)
        act, options = ACTIVATIONS[argument(n, "activation")]
        gate, up = linear(x, w_gate, b_gate), linear(x, w_up, b_up)
        activated = act(gate, **options)
        seen_x, seen_gate, seen_activated, seen_up = (value.flatten(0, -2) for value in (x, gate, activated, up))
        mlp = self._mlps[n.meta["module"]]
        self._see(Activity(mlp, seen_x, seen_gate, seen_activated, seen_up, w_gate, w_up, w_down))
        return linear(activated * up, w_down, b_down)

    def _value(self, argument: Any) -> Any:
        return self.env[argument] if isinstance(argument, fx.Node) else argument
