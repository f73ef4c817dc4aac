"""The base of the quantising passes: their options, the dim that groups run along, and what is left unrounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dipc.errors import UsageError
from dipc.ir.codes import QuantizedTensor, piece_of, round_to_nearest, shared_bytes
from dipc.ir.operator import is_unmasked
from dipc.ir.program import Program
from dipc.ir.stored_weight import StoredWeight, store
from dipc.pipeline.pass_ import Pass, PassResult
from dipc.pipeline.stored_weights import Weights, check_not_packed, choose

GROUPS = (32, 64, 128)


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
    group: int = 64
    axis: Literal["inputs", "outputs"] = "outputs"
    symmetric: bool = True
    weights: Weights = "all"

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise UsageError(f"{self.name}: group={self.group}: choose one of {', '.join(map(str, GROUPS))}")
        for option, known in (("axis", ("inputs", "outputs")), ("weights", ("all", "mlp"))):
            if getattr(self, option) not in known:
                raise UsageError(f"{self.name}: {option}={getattr(self, option)}: choose {' or '.join(known)}")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        raise NotImplementedError

    def quantized(
        self, programs: Sequence[Program], weights: Mapping[str, Tensor], axes: Mapping[str, int]
    ) -> dict[str, QuantizedTensor]:
        """Codes for matrices of the programs, each with groups along its dim: the nearest ones."""
        return {
            name: round_to_nearest(weight, self.bits, self.group, axes[name], self.symmetric)
            for name, weight in weights.items()
        }

    def run(self, program: Program) -> PassResult:
        """Quantise the program and the dense one it is compared with, so that both have one precision.

        Raises UsageError where matrices were packed or pruned for good before they were quantised.
        """
        check_not_packed(self.name, program)
        if any(is_unmasked(node) for node in program.graph.nodes):
            raise UsageError(f"{self.name}: weights were pruned for good, and their kept values cannot be rounded")
        programs = [program] if program.dense is None else [program, program.dense]
        chosen, skipped = choose(programs, self.weights, self._obstacle)
        if not chosen:
            return PassResult(program, (), skipped)
        in_mlps = {name for m in program.mlps for name in (m.gate, m.up, m.down)}
        axes = {name: 0 if self.axis == "outputs" and name in in_mlps else 1 for name in chosen}
        made = self.quantized(programs, chosen, axes)
        forms = {name: StoredWeight.of_codes(codes, chosen[name].dtype) for name, codes in made.items()}
        after, *dense = (self._noted(p) for p in store(programs, forms))
        after = after.replace(dense=dense[0]) if dense else after
        return PassResult(after, tuple(name.removesuffix(".weight") for name in made), skipped)

    def _obstacle(self, name: str, weight: Tensor) -> str | None:
        count, columns = piece_of(self.bits)[0], weight.shape[1]
        if columns % count == 0:
            return None
        wrong = "an odd number" if count == 2 else f"no multiple of {count}"
        return f"its {columns} columns are {wrong}, and {shared_bytes(self.bits)}"

    def _noted(self, program: Program) -> Program:
        options = ",".join(filter(None, (program.method.options, str(self))))
        return program.replace(method=dataclasses.replace(program.method, options=options))
