"""`sparsegpt`: weights pruned for good, each zero's error made good by the weights that are left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dipc.errors import UsageError
from dipc.ir.program import Method, Program
from dipc.ir.stored_weight import StoredWeight, store
from dipc.memory.lowering import program_density
from dipc.ops.unmask import OPERATOR as UNMASK
from dipc.ops.unmask import mask_of
from dipc.pipeline.pass_ import Pass, PassResult
from dipc.pipeline.sparsity_pass import check_choice, check_density, joined
from dipc.pipeline.stored_weights import Weights, check_not_packed, choose
from dipc.tuning.solvers.sequential import solve_sequentially, tokens_for
from dipc.tuning.solvers.sparsegpt import kept_count, sparsegpt

Shape = Literal["unstructured", "2:4", "4:8"]


@dataclass(frozen=True)
class Sparsegpt(Pass):
    """Prune weights by SparseGPT (Frantar & Alistarh 2023), on a calibration's text; before a method.

    What is kept of a weight is its values and one bit for every weight that says whether it has one: 8 + 1 bits per
    weight at density 0.5 and 16 bits.

    Attributes:
        density: kept weights of all weights of each matrix, in (0, 1].
        pattern: any weights, or 2 of every 4 or 4 of every 8 consecutive ones of a row, which is density 0.5.
        weights: the linear layers of the gated MLPs, or of the whole model.
        calibration: the file that `dipc calibrate` wrote for this model, of which the tokens are taken.
    """

    requires: ClassVar[tuple[str, ...]] = ("outline-glu",)
    static: ClassVar[bool] = True
    density: float = 0.5
    pattern: Shape = "unstructured"
    weights: Weights = "mlp"
    calibration: str | None = None

    def __post_init__(self) -> None:
        check_density(self.name, "density", self.density)
        check_choice(self.name, "pattern", self.pattern, Shape)
        check_choice(self.name, "weights", self.weights, Weights)
        if self._pattern and self.density != 0.5:
            raise UsageError(f"{self.name}: pattern={self.pattern} keeps half of the weights, not {self.density:g}")

    @property
    def _pattern(self) -> tuple[int, int] | None:
        kept, colon, of = self.pattern.partition(":")
        return (int(kept), int(of)) if colon else None

    def exact(self) -> Pass:
        """Everything kept."""
        return dataclasses.replace(self, density=1.0, pattern="unstructured")

    def run(self, program: Program) -> PassResult:
        """Prune all that can be; the dense program that results are compared with stays as it is."""
        check_not_packed(self.name, program)
        chosen, skipped = choose([program], self.weights, _obstacle)
        if not chosen:
            return PassResult(program, (), skipped)
        bare = self.calibration is None and not program.info.has_weights
        made = {n: self._shape(w) for n, w in chosen.items()} if bare else self._pruned(program, chosen)
        (after,) = store([program], made, beside=True)
        method = joined(program.method, Method(self.name, program_density(after), "all", str(self)))
        after = after.replace(method=method, dense=program.reference)
        mlps = {name: m.name for m in program.mlps for name in (m.gate, m.up, m.down)}
        done = dict.fromkeys(mlps.get(name, name.removesuffix(".weight")) for name in made)
        return PassResult(after, tuple(done), skipped)

    def _pruned(self, program: Program, chosen: dict[str, Tensor]) -> dict[str, StoredWeight]:
        windows = tokens_for(self, self.calibration, program)
        made: dict[str, StoredWeight] = {}

        def solve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
            pruned, keep = sparsegpt(weight, hessian(), self.density, self._pattern)
            made[name] = _stored(*mask_of(pruned, keep))
            return pruned

        solve_sequentially(program, windows, chosen, solve)
        return made

    def _shape(self, weight: Tensor) -> StoredWeight:
        """Return what becomes of a matrix that has a size and no numbers."""
        rows, columns = weight.shape
        values = weight.new_empty(kept_count(rows, columns, self.density, self._pattern))
        return _stored(values, torch.empty(rows, columns // 8, dtype=torch.uint8, device=weight.device))


def _stored(values: Tensor, kept: Tensor) -> StoredWeight:
    return StoredWeight(UNMASK, {"values": values, "kept": kept})


def _obstacle(_name: str, weight: Tensor) -> str | None:
    columns = weight.shape[1]
    return f"its {columns} columns are no multiple of 8, and eight mask bits share a byte" if columns % 8 else None
