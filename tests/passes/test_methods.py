"""Every method on the case worked by hand, where each does something else, and against the paper's equations.

Shape legend: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dipc.api import compile
from dipc.calibration.file import Calibration
from dipc.errors import UsageError
from dipc.memory.lowering import active_units, lower, program_density
from dipc.ops.glu import ACTIVATIONS
from dipc.passes.gate import GatePruning
from dipc.passes.glu import GluPruning
from dipc.passes.up import UpPruning
from dipc.passes.wina import Wina
from dipc.pipeline.text import make_pass
from kit.handmade_calibration import calibration_of, saved
from kit.tiny_models import one_glu, outlined
from kit.worked_example import DOWN, GATE, UP, X, call, hand, masks

# --- By hand: one of four hidden units is kept, and of the inputs two, by the methods that choose among them ---


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "options", "kept", "factor"),
    [
        # What the kept unit contributes: g u of the table in `kit.worked_example`, whatever method found it.
        ("glu", {"rho_glu": 0.25}, 1, 18.0),
        ("gate", {"density": 0.5}, 2, 9.0),
        ("up", {"density": 0.5}, 3, 14.0),
    ],
)
def test_methods_keep_the_unit_that_their_score_says(name: str, options: Any, kept: int, factor: float) -> None:
    program = make_pass(name, options).run(hand()).program
    assert masks(program, X) == {"layers.0.glu": [[kept]]}
    assert call(program, X)[0].tolist() == [[[factor * n for n in (5.0, 6.0, 7.0, 8.0)]]]


def test_wina_weighs_values_by_the_norms_of_their_columns() -> None:
    # Columns of gate over up have the squared norms 8, 1, 3 and 3: |x_i| times that is 11.3, 3, 3.5 and 1.7, so input 2
    # goes before the larger input 1. x^ = [4, 0, 2, 0]: g^ = [4, 6, 8, 2], u^ = [-4, 2, 0, 4], g^ u^ = [-16, 12, 0, 8].
    # Columns of down have the norms 5.5, 13.2, 13.2 and 13.2: 88, 158, 0 and 106, so unit 1 goes before unit 0.
    program = Wina(rho_in=0.5, rho_glu=0.25).run(hand()).program
    assert program.weights["mlp.norm.input"].tolist() == pytest.approx([math.sqrt(n) for n in (8, 1, 3, 3)])
    assert program.weights["mlp.norm.glu"].tolist() == pytest.approx([math.sqrt(n) for n in (30, 174, 174, 174)])
    assert masks(program, X) == {"layers.0.input": [[0, 2]], "layers.0.glu": [[1]]}
    assert call(program, X)[0].tolist() == [[[60.0, 72.0, 84.0, 96.0]]]


# --- Against the equations, token by token and unit by unit ---

Numbers = Any  # numpy arrays of float64
D, F = 6, 10


def _gelu_tanh(z: float) -> float:
    return 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


SIGMA: dict[str, Callable[[float], float]] = {
    "silu": lambda z: z / (1 + math.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + math.erf(z / math.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "relu": lambda z: max(z, 0.0),
}


def top(scores: list[float], k: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def column_norm(i: int, *matrices: Numbers) -> float:
    return math.sqrt(sum(m[row][i] ** 2 for m in matrices for row in range(len(m))))


class Written:
    """Eq. 1 to 8 for one token, in loops over units; `inputs` and `units` are those that are kept."""

    def __init__(self, x: Numbers, tensors: dict[str, Tensor], activation: str, measured: Calibration) -> None:
        self.x, self.sigma, self.measured = x, SIGMA[activation], measured
        self.w = {name: t.double().numpy() for name, t in tensors.items()}

    def row(self, matrix: str, j: int, inputs: list[int] | None = None) -> float:
        w, kept = self.w[matrix], range(D) if inputs is None else inputs
        return float(sum(w[j][i] * self.x[i] for i in kept) + self.w[f"b_{matrix}"][j])

    def hidden(self, j: int, inputs: list[int] | None = None) -> float:
        return self.row("up", j, inputs) * self.sigma(self.row("gate", j, inputs))

    def output(self, units: list[int], inputs: list[int] | None = None) -> list[float]:
        down, bias = self.w["down"], self.w["b_down"]
        return [sum(down[r][j] * self.hidden(j, inputs) for j in units) + bias[r] for r in range(D)]

    def glu_scores(self) -> list[float]:
        return [abs(self.hidden(j)) for j in range(F)]

    def gate_scores(self) -> list[float]:
        return [abs(self.sigma(self.row("gate", j))) for j in range(F)]

    def glu(self, k: int) -> list[float]:  # Eq. 4
        return self.output(top(self.glu_scores(), k))

    def gate(self, k: int) -> list[float]:  # Eq. 5
        return self.output(top(self.gate_scores(), k))

    def up(self, k: int) -> list[float]:
        return self.output(top([abs(self.row("up", j)) for j in range(F)], k))

    def cats(self, share: float) -> list[float]:
        least = self.measured.threshold("layers.0", "gate", share)
        return self.output([j for j, score in enumerate(self.gate_scores()) if score >= least])

    def everywhere(self, share: float) -> list[float]:
        least = self.measured.global_threshold("glu", share)
        return self.output([j for j, score in enumerate(self.glu_scores()) if score >= least])

    def predictor(self, k: int) -> list[float]:  # Eq. 6
        w1, b1, w2, b2 = (t.double().numpy() for t in self.measured.predictor("layers.0"))
        inner = [max(0.0, sum(row[i] * self.x[i] for i in range(D)) + b) for row, b in zip(w1, b1, strict=True)]
        return self.output(top([sum(w * v for w, v in zip(w2[j], inner, strict=True)) + b2[j] for j in range(F)], k))

    def inputs(self, scales: list[float], k_in: int, k: int, out: list[float]) -> list[float]:  # Eq. 7 and 8
        kept = top([abs(self.x[i]) * scales[i] for i in range(D)], k_in)
        return self.output(top([abs(self.hidden(j, kept)) * out[j] for j in range(F)], k), kept)

    def dip(self, k_in: int, k: int) -> list[float]:
        return self.inputs([1.0] * D, k_in, k, [1.0] * F)

    def wina(self, k_in: int, k: int) -> list[float]:
        first = [column_norm(i, self.w["gate"], self.w["up"]) for i in range(D)]
        return self.inputs(first, k_in, k, [column_norm(j, self.w["down"]) for j in range(F)])

    def sensitivity(self, k_in: int, k: int) -> list[float]:
        first = self.measured.sensitivity("layers.0").tolist()
        return self.inputs(first, k_in, k, [column_norm(j, self.w["down"]) for j in range(F)])


def random_mlp() -> dict[str, Tensor]:
    """Matrices and biases, whose columns differ in size."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"gate": (F, D), "up": (F, D), "down": (D, F), "b_gate": (F,), "b_up": (F,), "b_down": (D,)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    for name in ("gate", "up", "down"):
        tensors[name] *= 0.3 + 2 * torch.rand(tensors[name].shape[1], generator=generator)
    return tensors


CASES: dict[str, tuple[Callable[..., list[float]], tuple[float, ...]]] = {
    # What is meant, and the counts that the options mean, of 6 inputs and of 10 hidden units, or the share.
    "glu{density=0.8}": (Written.glu, (4,)),  # 3 x 0.8 - 2 = 0.4
    "gate{density=0.6}": (Written.gate, (4,)),  # (3 x 0.6 - 1) / 2 = 0.4
    "up{density=0.6}": (Written.up, (4,)),
    "cats{density=0.6}": (Written.cats, (0.4,)),
    "glu{density=0.8 threshold=global}": (Written.everywhere, (0.4,)),
    "predictor{density=0.4}": (Written.predictor, (4,)),
    "dip{density=0.5 rho_glu=0.3}": (Written.dip, (4, 3)),  # rho_in = 0.6, and 3.6 inputs round to 4
    "wina{density=0.5 rho_glu=0.3}": (Written.wina, (4, 3)),
    "sensitivity{density=0.5 rho_glu=0.3}": (Written.sensitivity, (4, 3)),
}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_methods_are_their_equations(activation: str, tmp_path: Path) -> None:
    """With biases, for every activation; and no two methods give the same."""
    t = random_mlp()
    before = one_glu(t["gate"], t["up"], t["down"], activation, (t["b_gate"], t["b_up"], t["b_down"]))
    x = torch.randn(1, 9, D, generator=torch.Generator().manual_seed(1))
    measured, outputs = calibration_of(before, x), list[Tensor]()
    path = saved(measured, tmp_path)
    for text, (meant, counts) in CASES.items():
        outputs.append(call(compile(before, text, calibration=path).program, x)[0][0])
        expected = [meant(Written(row, t, activation, measured), *counts) for row in x[0].double().numpy()]
        np.testing.assert_allclose(outputs[-1].numpy(), expected, rtol=2e-4, atol=2e-4, err_msg=text)
    assert all(not torch.allclose(a, b, rtol=0.01) for a, b in combinations(outputs, 2))


def test_dropped_units_leave_no_trace() -> None:
    """Rows of infinity where units were dropped, times zero, would be NaN."""
    gate, up = GATE.clone(), UP.clone()
    gate[0], up[0] = math.inf, math.inf  # gate keeps unit 2 and up unit 3
    for name, program in (("gate", one_glu(GATE, up, DOWN)), ("up", one_glu(gate, UP, DOWN))):
        method = make_pass(name, {"density": 0.5})
        assert torch.equal(call(method.run(program).program, X)[0], call(method.run(hand()).program, X)[0])


# --- What is read, and densities ---


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("glu{rho_glu=0.5}", {"gate_proj": 32, "up_proj": 32, "glu": 24}),
        ("gate{density=0.6}", {"gate_proj": 32, "glu": 19}),  # 0.4 x 48 = 19.2
        ("up{density=0.6}", {"up_proj": 32, "glu": 19}),
        ("wina{rho_in=0.5 rho_glu=0.25}", {"input": 16, "glu": 12}),
    ],
)
def test_the_sites_of_a_method(text: str, sites: dict[str, int]) -> None:
    """Matrices that are read whole, and units of what is not: a row of one with a column of the other."""
    program = compile(outlined(), text).program
    kept = {"layers.0." + n: k for n, k in sites.items()}
    found = {s.name: s for s in lower(program).sites if s.layer == 0}
    assert {name: active_units(program).get(name, s.units) for name, s in found.items()} == kept
    matrix = 32 * 48
    sizes = {"glu": (3 - len(sites) + 1) * matrix, "input": 2 * matrix, "gate_proj": matrix, "up_proj": matrix}
    if "input" in sites:
        sizes["glu"] = matrix
    assert {name.rpartition(".")[2]: s.weights for name, s in found.items()} == {n: sizes[n] for n in sites}


def test_norms_are_resident() -> None:
    """One number per unit: 32 inputs and 48 hidden units in each of two layers, at 32 bits."""
    plain, weighed = (lower(compile(outlined(), text).program) for text in ("dip", "wina"))
    assert weighed.resident_bytes - plain.resident_bytes == 2 * (32 + 48) * 4
    assert weighed.mlp_bytes == plain.mlp_bytes


def test_the_oracle_keeps_a_share_of_the_glu_whatever_that_reads() -> None:
    program = GluPruning(density=0.9, rho_glu=0.25).run(outlined()).program
    assert program.method.density == program_density(program) == pytest.approx((2 + 0.25) / 3)
    assert active_units(program)["layers.1.glu"] == 12


@pytest.mark.parametrize(
    ("kind", "density", "whole"),
    [
        (GluPruning, 0.5, "2 of an MLP's 3 matrices are read whole, so ask for more than 0.667"),
        (GluPruning, 2 / 3, "2 of"),
        (GatePruning, 1 / 3, "1 of"),
        (UpPruning, 0.2, "1 of an MLP's 3 matrices is read whole, so ask for more than 0.333"),
    ],
)
def test_a_density_below_what_is_read_whole_cannot_be_reached(kind: Any, density: float, whole: str) -> None:
    with pytest.raises(UsageError, match=rf"density=0\.\d+ cannot be reached: {whole}") as caught:
        kind(density=density)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.nan])
def test_a_share_outside_0_to_1_is_an_error(value: float) -> None:
    with pytest.raises(UsageError, match=r"glu: rho_glu=.* is outside \(0, 1\]"):
        GluPruning(rho_glu=value)


def test_a_threshold_of_another_kind_is_an_error() -> None:
    with pytest.raises(UsageError, match="gate: threshold=row: choose token or layer or global"):
        GatePruning(threshold="row")  # type: ignore[arg-type]
