"""Solve a program's weights one after the other, each on what it reads once those before it were replaced.

Source: the sequential order of GPTQ and SparseGPT, here for each matrix rather than for each layer: `down` sees the
hidden units that the new gate and up make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from torch import Tensor, fx
from torch.fx.node import map_arg

from dipc.calibration.file import calibration_for
from dipc.errors import CalibrationNeeded, UsageError
from dipc.ir.operator import argument
from dipc.ir.operators import matrices_of
from dipc.ir.program import Program
from dipc.ir.selections import selections
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
    about = [n for n in program.graph.nodes if any(_name(n, a) in names for a in matrices_of(n))]
    if about:
        run_layerwise(program, windows, _Sequential(set(names), solve), until=about[-1])


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
        for name, inputs in matrices_of(node).items():
            if _name(node, name) in self.names:
                self._solve(node, name, live, partial(self._hessian, node, inputs, live))

    def _solve(self, node: fx.Node, matrix: str, live: Frontier, hessian: Callable[[], Tensor]) -> None:
        name = _name(node, matrix)
        before = live.weight(name)
        try:
            live.replace(name, self.solve(name, before, hessian).to(before.dtype))
        except ValueError as error:
            raise UsageError(f"{name}: {error} on the calibration's text; calibrate on other text") from error

    def _hessian(self, node: fx.Node, inputs: str | Callable[..., Tensor], live: Frontier) -> Tensor:
        """That of what a matrix of the node multiplies, by the weights that are there now."""
        if callable(inputs):
            return hessian_of(_computed(node, inputs, live))
        source = argument(node, inputs)
        if self.last is None or self.last[0] is not source:
            self.last = source, hessian_of(live.of(source))
        return self.last[1]


def _computed(node: fx.Node, inputs: Callable[..., Tensor], live: Frontier) -> list[Tensor]:
    """Return what a function of the node's arguments gives, window by window."""
    values = {n: live.of(n) for n in node.all_input_nodes}
    arguments = (
        map_arg((node.args, node.kwargs), lambda n, i=i: values[n][i])  # type: ignore[misc]
        for i in range(live.windows)
    )
    return [inputs(*args, **kwargs) for args, kwargs in arguments]


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
