"""Measure what an allocation of densities is made of: how far DIP takes a model from dense, at which densities.

Divergence is the KL divergence of the next token's distribution from the dense model's, in nats per token. Everything
is measured on the same few windows, one at a time, so that the dense model's logits are had once and one window's only.

Shape legend: N windows, T tokens of a window, V vocabulary, G densities of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dipc.calibration.density_allocation import SITES, DensityAllocation, DensityPoint, fit
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import make_pass
from dipc.tuning.options import PartOptions
from dipc.tuning.sweep import Sweep, work
from dipc.tuning.unfinished import NOTHING_KEPT, FinishedSteps

GRID = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
"""Densities at which single sites are measured; it reaches low, as some sites can do with almost nothing."""

PAIRS = tuple(
    (rho_in / 10, rho_glu / 10)
    for rho_in in range(2, 10)
    for rho_glu in range(1, 10)
    if 3 * 3 <= 2 * rho_in + rho_glu <= 3 * 8
)
"""(rho_in, rho_glu) at which the whole model is measured: those of a density between 0.3 and 0.8."""

TOGETHER = 6
"""Runs that go side by side."""


def search(
    program: Program,
    windows: Tensor,
    *,
    tokens: int = PartOptions.allocation_tokens,
    progress: Callable[[int, int], None] | None = None,
    steps: FinishedSteps = NOTHING_KEPT,
) -> DensityAllocation:
    """Measure a dense model on windows of text: the first two of the three steps of Appendix B.1, and site by site.

    The whole model is run with DIP at many pairs of densities, all MLPs alike, and the linear model is fitted to the
    Pareto-optimal pairs (by density and divergence, where the paper has perplexity). Then one site of one MLP is sparse
    at a time, at every density of the grid, and all else dense. With all else at density 0.7 or 0.5 the
    divergences of small models hardly differed, for twice the time.

    Args:
        program: with weights, and no method applied.
        windows: tokens i64 [N, T] of a calibration text; whole rows are used, spread evenly.
        tokens: at most so many are used, but at least one row, cut. Only differences on the same tokens count.
        progress: called with the work that is done and that there is: equal parts of it take about as long.
        steps: keeps what was measured, and has what was measured before.

    Raises:
        UsageError: the program has no weights.
        UnsupportedModel: it has no gated MLP.
    """
    if not program.info.has_weights:
        raise UsageError(f"{program.info.name} was captured from a config alone: it has no weights to run with")
    sparse = run_pipeline(program, [make_pass("dip", {"density": 1.0})]).program
    chosen = sample(windows, tokens)
    weighed = _work(sparse)
    done, total = 0, len(chosen) * sum(weighed.values())
    found = []
    for number, ids_T in enumerate(chosen):
        step = f"allocation {number + 1} of {len(chosen)} of {len(ids_T)}"
        kept = steps.read(step)
        found.append(kept)
        done += sum(weighed[key] for key in kept)
        for key, figures in _measured(sparse, ids_T, kept):
            kept[key] = torch.tensor(figures, dtype=torch.float64)
            steps.keep(step, kept)
            done += weighed[key]
            if progress is not None:
                progress(done, total)
    mean = {key: torch.stack([kept[key] for kept in found]).sum(0) / chosen.numel() for key in weighed}
    return _allocation(mean, sparse)


def _allocation(mean: Mapping[str, Tensor], sparse: Program) -> DensityAllocation:
    """The line and the curves of divergences in nats per token, float64 [G] by key."""
    divergences = torch.cat([mean[key] for key in _groups()]).tolist()
    line = fit(DensityPoint(*pair, divergence) for pair, divergence in zip(PAIRS, divergences, strict=True))
    curves = {
        m.site_prefix: torch.stack([mean[f"{m.site_prefix}.{site}"] for site in SITES]).float() for m in sparse.mlps
    }
    return DensityAllocation(*line, GRID, curves)


def _measured(sparse: Program, ids_T: Tensor, kept: Mapping[str, Tensor]) -> Iterator[tuple[str, list[float]]]:
    """Every figure of a window that is not kept yet: of so many pairs at once, and of the grid of each site."""
    wanted = [key for key in _work(sparse) if key not in kept]
    if not wanted:
        return
    sweep = Sweep(sparse, ids_T)
    for key, pairs in _groups().items():
        if key in wanted:
            yield key, sweep.whole([_alike(sparse, pair) for pair in pairs])
    yield from sweep.sites(GRID, wanted)


def _alike(sparse: Program, pair: tuple[float, float]) -> dict[str, float]:
    """The densities of a run whose MLPs all have the same pair."""
    return {f"{m.site_prefix}.{site}": rho for m in sparse.mlps for site, rho in zip(SITES, pair, strict=True)}


def _groups() -> dict[str, tuple[tuple[float, float], ...]]:
    """The pairs that are run side by side, by the name of what is measured of them."""
    return {f"pairs.{i}": PAIRS[i : i + TOGETHER] for i in range(0, len(PAIRS), TOGETHER)}


def _work(sparse: Program) -> dict[str, int]:
    """The steps of a window in their order, groups of pairs and then sites: multiplications of each for a token."""
    of_run, groups = work(sparse), _groups()
    sites = (f"{m.site_prefix}.{site}" for m in sparse.mlps for site in SITES)
    return {key: len(pairs) * of_run[""] for key, pairs in groups.items()} | {s: len(GRID) * of_run[s] for s in sites}


def sample(windows: Tensor, tokens: int) -> Tensor:
    """Some rows [N, T] of the windows that together have at most so many tokens, evenly spread; at least one, cut."""
    rows, length = windows.shape[:2]
    count = max(1, min(rows, tokens // length))
    return windows[torch.arange(count) * rows // count, :tokens]
