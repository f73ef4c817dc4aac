"""The SwiGLU MLP that candidates run: the same random weights and inputs for everybody, from a seed.

Shapes: T tokens, D d_model, F d_ff, U units of a matrix, N values of a unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from dipc.ir.selections import kept_units
from dipc.ops._packed import PackedMatrix
from dipc.ops.select_topk import reference as select_topk

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BITS = {"int8": 8, "int4": 4}
FORMATS = (*FLOATS, *BITS)

INPUTS = 8
"""Different inputs that calls take in turn, so that the masks change as they do from token to token."""


@dataclass(frozen=True)
class MlpTask:
    """The work of every candidate of one contest; its fields are plain values.

    Attributes:
        d_model: D.
        d_ff: F.
        format: of the weights, one of `FORMATS`.
        densities: kept share of D inputs, and of F hidden values.
        tokens: T of a call.
        layers: how many MLPs, each with weights of its own, a call runs through.
        threads: of each candidate.
        group: weights that share a scale, where the format has scales.
        axis: 0 for groups across units (along the inputs, as GPTQ makes them), 1 for groups along the unit.
        seed: of weights and inputs.
    """

    d_model: int
    d_ff: int
    format: str
    densities: tuple[float, ...]
    tokens: int = 1
    layers: int = 1
    threads: int = 1
    group: int = 128
    axis: int = 0
    seed: int = 0

    @property
    def parameters(self) -> int:
        """The number of weights of one MLP."""
        return 3 * self.d_model * self.d_ff

    def kept(self, density: float) -> tuple[int, int]:
        """Return the number of units kept of D and of F."""
        return kept_units(density, self.d_model), kept_units(density, self.d_ff)

    def inputs(self) -> list[Tensor]:
        """Return x [T, D] in float32, for calls in turn."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return [torch.randn(self.tokens, self.d_model, generator=generator) for _ in range(INPUTS)]


@dataclass(frozen=True)
class Mlp:
    """Unit-major weights: row i of `gate_up` [D, 2F] is what input i is multiplied by, of `down` [F, D] hidden i."""

    gate_up: PackedMatrix
    down: PackedMatrix

    def size_bytes(self, kept: tuple[int, int] | None = None) -> float:
        """Return the bytes that one token reads with so many units kept of D and of F; all by default."""
        inputs, hidden = kept or (self.gate_up.shape[0], self.down.shape[0])
        return matrix_bytes(self.gate_up, inputs) + matrix_bytes(self.down, hidden)


def make_mlp(task: MlpTask) -> Mlp:
    """Draw the weights: normal, scaled so that values stay near one; of an integer format, random codes and scales."""
    generator = torch.Generator().manual_seed(task.seed)
    gate_up = _matrix(task, task.d_model, 2 * task.d_ff, generator)
    return Mlp(gate_up, _matrix(task, task.d_ff, task.d_model, generator))


def copies_of(mlp: Mlp, count: int) -> Iterator[Mlp]:
    """Yield the same values in memory of their own, so often."""
    for _ in range(count):
        yield Mlp(_copied(mlp.gate_up), _copied(mlp.down))


def matrix_bytes(matrix: PackedMatrix, kept: int) -> float:
    """Return the bytes read when so many units are kept: theirs, and all scales that units share."""
    tables = sum(t.numel() * t.element_size() for t in (matrix.scales, matrix.zeros) if t is not None)
    units = matrix.units.numel() * matrix.units.element_size() * kept / matrix.shape[0]
    return units + (tables * kept / matrix.shape[0] if matrix.axis == 1 else tables)


def reference_outputs(task: MlpTask, mlp: Mlp) -> dict[str, Tensor]:
    """Return the output for the first input, [T, D]: dense, and at each density by the definitions of the operators."""
    gate, up = mlp.gate_up.values().chunk(2, 1)
    down, x = mlp.down.values(), task.inputs()[0]
    found = {case_name(None): (silu(x @ gate) * (x @ up)) @ down}
    for density in task.densities:
        inputs, hidden = task.kept(density)
        kept = torch.where(select_topk(x.abs(), inputs), x, 0)
        h = silu(kept @ gate) * (kept @ up)
        found[case_name(density)] = torch.where(select_topk(h.abs(), hidden), h, 0) @ down
    return found


def case_name(density: float | None, part: str = "MLP") -> str:
    """Return what candidates call this work, so that the same can be compared; without a density it is dense."""
    return f"{part} dense" if density is None else f"{part} at {density:g}"


def _matrix(task: MlpTask, units: int, length: int, generator: torch.Generator) -> PackedMatrix:
    if task.format in FLOATS:
        values = torch.empty(units, length).normal_(0, units**-0.5, generator=generator)
        return PackedMatrix(values.to(FLOATS[task.format]))
    bits = BITS[task.format]
    codes = torch.empty(units, length * bits // 8, dtype=torch.uint8).random_(0, 256, generator=generator)
    groups = [units, length]
    groups[task.axis] = math.ceil(groups[task.axis] / task.group)
    # Codes are uniform over 2^bits values, whose deviation is 2^bits / sqrt(12).
    scale = math.sqrt(12 / units) / 2**bits
    scales = torch.empty(groups).uniform_(0.5 * scale, 1.5 * scale, generator=generator).half()
    return PackedMatrix(codes, scales, None, bits, task.group, task.axis)


def _copied(matrix: PackedMatrix) -> PackedMatrix:
    scales = None if matrix.scales is None else matrix.scales.clone()
    return dataclasses.replace(matrix, units=matrix.units.clone(), scales=scales)
