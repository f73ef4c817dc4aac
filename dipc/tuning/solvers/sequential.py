"""Solving a program's weights one after the other, each on what it reads once those before it were replaced.

Source: the sequential order of GPTQ and SparseGPT, here for each matrix rather than for each layer: `down` sees the
hidden units that the new gate and up make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.calibration.file import calibration_for
from dipc.errors import CalibrationNeeded, UsageError
from dipc.ir import operators
from dipc.ir.operator import argument, has_argument
from dipc.ir.program import Program
from dipc.ir.selections import selections
from dipc.ops.glu import ACTIVATIONS
from dipc.pipeline.pass_ import Pass
from dipc.tuning.layerwise import Frontier, run_layerwise
from dipc.tuning.solvers.hessian import hessian_of

Solve = Callable[[str, Tensor, Callable[[], Tensor]], Tensor]
"""Name, weight [O, I], and what finds the Hessian [I, I] of its inputs -> the weight that is read from then on."""


def solve_sequentially(program: Program, windows: Tensor, names: Collection[str], solve: Solve) -> None:
    """Hand each named matrix of the linear layers and gated MLPs to `solve`, in the order of the graph.

    Args:
        program: with weights; it is not changed.
        windows: i64 [N, T], the tokens to solve on.
        names: which weights.
        solve: see `Solve`.

    Raises:
        UsageError: as `run_layerwise`, or what a matrix reads is not finite on these tokens.
    """
    about = [n for n in program.graph.nodes if any(_name(n, a) in names for a in matrices(n))]
    if about:
        run_layerwise(program, windows, _Sequential(set(names), solve), until=about[-1])


def matrices(node: fx.Node) -> tuple[str, ...]:
    """The arguments of a dense linear layer that are its matrices, in the order in which they are read."""
    if node.target is operators.target("glu"):
        return ("w_gate", "w_up", "w_down")
    return ("weight",) if str(getattr(node.target, "_schema", "")).startswith("aten::linear(") else ()


def _name(node: fx.Node, argument_name: str) -> str:
    value = argument(node, argument_name)
    return str(value.target) if value.op == "get_attr" else ""


class _Sequential:
    """The visits of a run: the Hessian of inputs that several layers share is found once."""

    def __init__(self, names: set[str], solve: Solve) -> None:
        self.names, self.solve = names, solve
        self.last: tuple[fx.Node, Tensor] | None = None

    def __call__(self, node: fx.Node, live: Frontier) -> None:
        """Solve the matrices of a node, if it has any."""
        chosen = [a for a in matrices(node) if _name(node, a) in self.names]
        first = "x" if has_argument(node, "x") else "input"
        for name in chosen:
            if name == "w_down":
                self._solve(node, name, live, lambda: hessian_of(_hidden(node, live)))
            else:
                self._solve(node, name, live, lambda: self._shared(argument(node, first), live))

    def _solve(self, node: fx.Node, matrix: str, live: Frontier, hessian: Callable[[], Tensor]) -> None:
        name = _name(node, matrix)
        before = live.weight(name)
        try:
            live.replace(name, self.solve(name, before, hessian).to(before.dtype))
        except ValueError as error:
            raise UsageError(f"{name}: {error} on the calibration's text; calibrate on other text") from error

    def _shared(self, inputs: fx.Node, live: Frontier) -> Tensor:
        if self.last is None or self.last[0] is not inputs:
            self.last = inputs, hessian_of(live.of(inputs))
        return self.last[1]


def _hidden(node: fx.Node, live: Frontier) -> list[Tensor]:
    """What `down` reads: act(W_gate x) * W_up x, by the gate and up that are there now."""
    act, options = ACTIVATIONS[argument(node, "activation")]
    parts = [argument(node, name) for name in ("w_gate", "b_gate", "w_up", "b_up")]
    gate, b_gate, up, b_up = (None if part is None else live.of(part)[0] for part in parts)
    assert gate is not None and up is not None
    return [act(linear(x, gate, b_gate), **options) * linear(x, up, b_up) for x in live.of(argument(node, "x"))]


def tokens_for(item: Pass, calibration: str | None, program: Program) -> Tensor:
    """The windows i64 [N, T] that a pass solves on, before any method.

    Raises:
        UsageError: no calibration was given, or a method has rewritten the MLPs already.
        BadFile: the calibration cannot be read or is of another model.
    """
    if selections(program):
        raise UsageError(f"{item.name}: a method has rewritten the MLPs already; put {item.name} before it")
    if calibration is None:
        raise CalibrationNeeded(item)
    return calibration_for(calibration, program).windows()
