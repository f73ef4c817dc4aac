"""Measuring a density allocation: the right divergences, of the right density, and for large models' statistics."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from dipc.backends.eager import EagerSession
from dipc.calibration.density_allocation import DensityAllocation
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.passes.dip import Dip
from dipc.tuning.search import GRID, PAIRS, Sweep, sample, search
from kit.tiny_models import one_glu, outlined, random_ids

WINDOWS = random_ids(40).reshape(2, 20)


def measured(program: Program, ids_T: Tensor) -> float:
    """KL to dense, summed over tokens, of a program as it runs for everybody else."""
    log_p, log_q = (log_softmax(EagerSession(p).step(ids_T).logits, -1) for p in (program.reference, program))
    return float((log_p.exp() * (log_p - log_q)).sum())


def test_search_is_deterministic_and_counts_its_progress() -> None:
    calls: list[tuple[int, int]] = []
    first, second = (search(outlined(), WINDOWS, progress=progress) for progress in (lambda *c: calls.append(c), None))
    assert (first.intercept, first.slope, first.grid) == (second.intercept, second.slope, GRID)
    assert list(first.divergence) == ["layers.0", "layers.1"]
    for name, curve in first.divergence.items():
        assert curve.dtype == torch.float32 and torch.equal(curve, second.divergence[name])
    runs = 2 * (len(PAIRS) + 2 * 2 * len(GRID))
    assert calls == [(i, runs) for i in range(1, runs + 1)]


def test_search_gives_the_density_asked_for() -> None:
    allocation = search(outlined(), WINDOWS[:1])
    for density in (0.6, 0.5, 0.4):
        shared = allocation.layers(density, outlined().mlps)
        assert sum(2 * a + b for a, b in shared.values()) / 6 == pytest.approx(density, abs=1e-9)


def loud() -> Program:
    """The tiny model with MLPs that say something, so that a divergence is no rounding error."""
    program = outlined()
    return program.replace(weights={name: w * (8 if "mlp" in name else 1) for name, w in program.weights.items()})


def test_a_run_is_the_program_that_dip_makes() -> None:
    """Pairs and single sites, the latter from the middle of a run, against programs compiled with those densities."""
    program = loud()
    sparse = Dip(density=1.0).run(program).program
    found = dict(Sweep(sparse, WINDOWS[0]).divergences())
    assert found[0.5, 0.3] == pytest.approx(measured(Dip(rho_in=0.5, rho_glu=0.3).run(program).program, WINDOWS[0]))
    for layer in (0, 1):
        alone = Dip(rho_in=0.3, rho_glu=1.0, layers=str(layer)).run(program).program
        assert found[f"layers.{layer}.input", 0.3] == pytest.approx(measured(alone, WINDOWS[0]), rel=1e-4)
        alone = Dip(rho_in=1.0, rho_glu=0.3, layers=str(layer)).run(program).program
        assert found[f"layers.{layer}.glu", 0.3] == pytest.approx(measured(alone, WINDOWS[0]), rel=1e-4)


def heavy_tailed() -> tuple[Program, Tensor]:
    """An MLP with large models' statistics, as a program, and its inputs [1, T, D].

    Input 0 is large for every token and opens every gate alike; of the others a few are far larger than the rest. Rows
    of W_up of +-1 spread them over all units, so that no unit of the GLU stands out.
    """
    generator = torch.Generator().manual_seed(0)
    d_model, d_ff = 64, 64
    x = torch.randn(1, 32, d_model, generator=generator) ** 5 / 20
    x[..., 0] = 4.0
    gate = torch.zeros(d_ff, d_model)
    gate[:, 0] = 1.0
    up = torch.randn(d_ff, d_model, generator=generator).sign()
    down = torch.linalg.qr(torch.randn(d_model, d_ff, generator=generator)).Q / 4
    return one_glu(gate, up, down), x


def test_heavy_tailed_inputs_need_less_density_than_a_flat_glu() -> None:
    program, x = heavy_tailed()
    allocation = search(program, x)
    for density in (0.6, 0.5, 0.4):
        for rho_in, rho_glu in (allocation.split(density), *allocation.layers(density, program.mlps).values()):
            assert rho_in < rho_glu


def divergence_at(program: Program, x: Tensor, rho_in: float, rho_glu: float) -> float:
    sparse = Dip(rho_in=rho_in, rho_glu=rho_glu).run(program).program
    p, q = (log_softmax(s.module(x)[0], -1) for s in (program, sparse))
    return float((p.exp() * (p - q)).sum())


def test_what_was_found_is_better_than_the_equal_split() -> None:
    program, x = heavy_tailed()
    allocation: DensityAllocation = search(program, x)
    equal = divergence_at(program, x, 0.5, 0.5)
    assert divergence_at(program, x, *allocation.split(0.5)) < equal
    (pair,) = allocation.layers(0.5, program.mlps).values()
    assert divergence_at(program, x, *pair) < equal


def test_few_tokens_are_taken_from_all_over_the_text() -> None:
    rows = torch.arange(100)[:, None].expand(100, 512)
    assert sample(rows)[:, 0].tolist() == [0, 25, 50, 75]
    assert sample(rows[:3]).shape == (3, 512)
    assert sample(torch.zeros(5, 4096)).shape == (1, 2048)


def test_search_needs_weights() -> None:
    program = outlined()
    program = program.replace(info=dataclasses.replace(program.info, has_weights=False))
    with pytest.raises(UsageError, match="config alone"):
        search(program, WINDOWS)
