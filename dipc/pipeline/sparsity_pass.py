"""The base of the methods: their options, which MLPs they rewrite, and what they read from a calibration.

A method is a `SparsityPass` that says, in `rewrite`, what becomes of one gated MLP (`mlp_rewriter.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar, get_args

from torch import fx

from dipc.calibration.file import Calibration, calibration_for
from dipc.errors import CalibrationNeeded, UsageError
from dipc.ir import operators
from dipc.ir.pattern import Mismatch
from dipc.ir.program import Method, Port, Program
from dipc.memory.lowering import program_density
from dipc.pipeline.mlp_rewriter import MlpRewriter, Scope
from dipc.pipeline.pass_ import PASSES, Pass, PassResult

T = TypeVar("T")


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
        check_choice(self.name, "scope", self.scope, Scope)

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        """The MLP's output [1, T, D], computed by this method."""
        raise NotImplementedError

    def exact(self) -> Pass:
        """This method keeping everything."""
        return dataclasses.replace(self, density=1.0)

    def run(self, program: Program) -> PassResult:
        """Rewrite every selected `glu` node."""
        graph, weights = program.edit(), dict(program.weights)
        layers = select_layers(self.name, self.layers, program.info.layers)
        by_name = {m.name: m for m in program.mlps}
        glus = [(node, by_name[node.meta["module"]]) for node in graph.nodes if node.target is operators.target("glu")]
        chosen = [mlp for _, mlp in glus if mlp.layer in layers]
        ports: list[Port] = []
        carried: list[fx.Node] = []
        done: list[str] = []
        skipped: list[Mismatch] = []
        for node, mlp in glus:
            if mlp.layer not in layers:
                skipped.append(Mismatch(f"layer {mlp.layer} is not among layers={self.layers}", mlp.name))
                continue
            rewriter = MlpRewriter(program, mlp, node, self.scope, chosen, weights, ports, carried)
            node.replace_all_uses_with(self.rewrite(rewriter))
            graph.erase_node(node)
            done.append(mlp.name)
        untouched = set(by_name) - set(done) - {m.where for m in skipped}
        skipped += [Mismatch("already rewritten by another method", m) for m in sorted(untouched)]
        output = next(n for n in graph.nodes if n.op == "output")
        output.args = ((*output.args[0], *carried),)
        states = tuple(p.name for p in ports if p.kind == "state")
        order = {n.name: i for i, n in enumerate(n for n in graph.nodes if n.op == "placeholder")}
        inputs = tuple(sorted((*program.inputs, *ports), key=lambda p: order[p.name]))
        after = program.replace(graph=graph, weights=weights, inputs=inputs, outputs=(*program.outputs, *states))
        if done:
            method = joined(program.method, Method(self.name, program_density(after), self.scope, str(self)))
            after = after.replace(method=method, dense=program.reference)
        return PassResult(after, tuple(done), tuple(skipped))


@dataclass(frozen=True)
class CalibratedPass(SparsityPass):
    """Base of the methods that read, always or with some of their options, what `dipc calibrate` measured.

    Attributes:
        calibration: the file that `dipc calibrate` wrote for this model.
    """

    calibration: str | None = None

    def measured(self, program: Program) -> Calibration:
        """The calibration. UsageError if none was given, BadFile if it cannot be read or is of another model."""
        if self.calibration is None:
            raise CalibrationNeeded(self)
        return calibration_for(self.calibration, program)

    def read(self, program: Program, find: Callable[[Calibration], T], otherwise: Callable[[], T]) -> T:
        """Return what `find` gives of the calibration; `otherwise` for a program from a config, which never runs."""
        if self.calibration is None and not program.info.has_weights:
            return otherwise()
        return find(self.measured(program))


def joined(first: Method, second: Method) -> Method:
    """The method of a program on which two were applied, each to its own layers or one after a static one.

    A dense program may be quantised.
    """
    if first.name == "dense":
        return dataclasses.replace(second, options=",".join(filter(None, (first.options, second.options))))
    if first.scope != second.scope and not _is_static(first.name):
        raise UsageError(f"{first.options} and {second.options} differ in scope; a program has one")
    return Method(f"{first.name}+{second.name}", second.density, second.scope, f"{first.options},{second.options}")


def _is_static(method: str) -> bool:
    return method in PASSES.names() and PASSES.get(method).static


def check_density(name: str, option: str, value: float) -> None:
    """UsageError unless 0 < value <= 1."""
    if not 0 < value <= 1:
        raise UsageError(f"{name}: {option}={value:g} is outside (0, 1]; 1 keeps every weight")


def check_choice(name: str, option: str, value: str, choices: object) -> None:
    """UsageError unless the value is one of a `Literal`'s."""
    if value not in get_args(choices):
        raise UsageError(f"{name}: {option}={value}: choose {' or '.join(get_args(choices))}")


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
