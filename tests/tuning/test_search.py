"""Measuring a density allocation: the right divergences, of the right density, and for large models' statistics."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from dipc.backends.eager import EagerSession
from dipc.calibration.density_allocation import SITES, DensityAllocation
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.passes.dip import Dip
from dipc.tuning.search import GRID, PAIRS, TOGETHER, sample, search
from dipc.tuning.sweep import Sweep, work
from dipc.tuning.unfinished import FinishedSteps
from kit.tiny_models import one_glu, outlined, random_ids

WINDOWS = random_ids(40).reshape(2, 20)


def measured(program: Program, ids_T: Tensor) -> float:
    """KL to dense, summed over tokens, of a program as it runs for everybody else."""
    log_p, log_q = (log_softmax(EagerSession(p).step(ids_T).logits, -1) for p in (program.reference, program))
    return float((log_p.exp() * (log_p - log_q)).sum())


def test_search_is_deterministic_and_says_how_much_work_is_left() -> None:
    calls: list[tuple[int, int]] = []
    first, second = (search(outlined(), WINDOWS, progress=progress) for progress in (lambda *c: calls.append(c), None))
    assert (first.intercept, first.slope, first.grid) == (second.intercept, second.slope, GRID)
    assert list(first.divergence) == ["layers.0", "layers.1"]
    for name, curve in first.divergence.items():
        assert curve.dtype == torch.float32 and torch.equal(curve, second.divergence[name])
    done = [done for done, _ in calls]
    total = calls[0][1]
    assert done == sorted(set(done)) and done[-1] == total and {t for _, t in calls} == {total}
    assert len(calls) == 2 * (math.ceil(len(PAIRS) / TOGETHER) + 2 * 2)


def test_work_is_what_is_multiplied_from_a_site_on() -> None:
    program = outlined()
    sparse = Dip(density=1.0).run(program).program
    sizes = {name: w.numel() for name, w in program.weights.items() if w.dim() == 2}
    mlp = sum(program.weights[name].numel() for name in (program.mlps[1].gate, program.mlps[1].up))
    down, head = program.weights[program.mlps[1].down].numel(), sizes["model.embed_tokens.weight"]
    found = work(sparse)
    assert found["layers.1.glu"] == down + head
    assert found["layers.1.input"] == mlp + down + head
    assert found[""] == sum(sizes.values()) + (0 if "lm_head.weight" not in sizes else -head)
    assert found["layers.0.glu"] < found["layers.0.input"] < found[""]


class Ended(Exception):
    """A process that was ended, as far as a test can end one."""


@pytest.mark.parametrize("steps", [1, 9, 13, 20])
def test_a_search_that_was_ended_goes_on_with_the_same_result(tmp_path: Path, steps: int) -> None:
    """Ended among the pairs, among the sites, and in the second window."""
    kept = FinishedSteps(tmp_path / "steps", {"digest": "a"})
    calls: list[tuple[int, int]] = []

    def end(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == steps:
            raise Ended

    with pytest.raises(Ended):
        search(outlined(), WINDOWS, progress=end, steps=kept)
    assert not [file for file in kept.folder.iterdir() if not file.name.endswith(".safetensors")]  # type: ignore[union-attr]
    again: list[tuple[int, int]] = []
    resumed = search(outlined(), WINDOWS, progress=lambda *c: again.append(c), steps=kept)
    whole = search(outlined(), WINDOWS)
    assert len(calls) + len(again) == 2 * (math.ceil(len(PAIRS) / TOGETHER) + 4)
    assert again[0][0] > calls[-1][0] and again[-1][0] == again[-1][1]
    assert (resumed.intercept, resumed.slope) == (whole.intercept, whole.slope)
    assert all(torch.equal(curve, whole.divergence[name]) for name, curve in resumed.divergence.items())


def test_runs_side_by_side_are_what_each_is_alone() -> None:
    sparse = Dip(density=1.0).run(loud()).program
    sweep = Sweep(sparse, WINDOWS[0])
    sites = [f"{m.site_prefix}.{where}" for m in sparse.mlps for where in ("input", "glu")]
    runs = [dict.fromkeys(sites, density) for density in (0.2, 0.5, 0.9)] + [{sites[0]: 0.3}, {sites[3]: 0.1}]
    together = sweep.whole(runs)
    assert together == pytest.approx([sweep.whole([run])[0] for run in runs], rel=1e-5)
    assert sweep.whole([{}, {}]) == [0.0, 0.0]
    assert together[0] > together[1] > together[2] > 0


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
    sweep = Sweep(sparse, WINDOWS[0])
    names = [f"{m.site_prefix}.{site}" for m in program.mlps for site in SITES]
    pair = {name: 0.5 if name.endswith("input") else 0.3 for name in names}
    both = Dip(rho_in=0.5, rho_glu=0.3).run(program).program
    assert sweep.whole([pair]) == [pytest.approx(measured(both, WINDOWS[0]))]
    found = dict(sweep.sites([0.3], names))
    assert list(found) == names and dict(sweep.sites([0.3], names[2:])) == {n: found[n] for n in names[2:]}
    for layer in (0, 1):
        alone = Dip(rho_in=0.3, rho_glu=1.0, layers=str(layer)).run(program).program
        assert found[f"layers.{layer}.input"][0] == pytest.approx(measured(alone, WINDOWS[0]), rel=1e-4)
        alone = Dip(rho_in=1.0, rho_glu=0.3, layers=str(layer)).run(program).program
        assert found[f"layers.{layer}.glu"][0] == pytest.approx(measured(alone, WINDOWS[0]), rel=1e-4)


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
    assert sample(rows, 2048)[:, 0].tolist() == [0, 25, 50, 75]
    assert sample(rows[:3], 2048).shape == (3, 512)
    assert sample(torch.zeros(5, 4096), 2048).shape == (1, 2048)


def test_search_needs_weights() -> None:
    program = outlined()
    program = program.replace(info=dataclasses.replace(program.info, has_weights=False))
    with pytest.raises(UsageError, match="config alone"):
        search(program, WINDOWS)
