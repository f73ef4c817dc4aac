"""Measure what an allocation of densities is made of: how far DIP takes a model from dense, at which densities.

Divergence is the KL divergence of the next token's distribution from the dense model's, in nats per token. Everything
is measured on the same few windows, one at a time, so that the dense model's logits are had once and one window's only.

Shape legend: N windows, T tokens of a window, V vocabulary, G densities of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import log_softmax

from dipc.calibration.density_allocation import SITES, DensityAllocation, DensityPoint, fit
from dipc.errors import UsageError
from dipc.ir import operators
from dipc.ir.finite import not_finite
from dipc.ir.operator import argument
from dipc.ir.program import Program
from dipc.ir.selections import kept_units
from dipc.ir.verify import empty_port
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import make_pass
from dipc.tuning.divergence import kl_divergence

GRID = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
"""Densities at which single sites are measured; it reaches low, as some sites can do with almost nothing."""

PAIRS = tuple(
    (rho_in / 10, rho_glu / 10)
    for rho_in in range(2, 10)
    for rho_glu in range(1, 10)
    if 3 * 3 <= 2 * rho_in + rho_glu <= 3 * 8
)
"""(rho_in, rho_glu) at which the whole model is measured: those of a density between 0.3 and 0.8."""

TOKENS = 2048
"""At most so many tokens are looked at. They are enough, as only differences on the same tokens count."""


def search(
    program: Program, windows: Tensor, *, progress: Callable[[int, int], None] | None = None
) -> DensityAllocation:
    """Measure a dense model on windows of text: the first two of the three steps of Appendix B.1, and site by site.

    The whole model is run with DIP at many pairs of densities, all MLPs alike, and the linear model is fitted to the
    Pareto-optimal pairs (by density and divergence, where the paper has perplexity). Then one site of one MLP is sparse
    at a time, at every density of the grid, and all else dense. With all else at density 0.7 or 0.5 the
    divergences of small models hardly differed, for twice the time.

    Args:
        program: with weights, and no method applied.
        windows: tokens i64 [N, T] of a calibration text; some 2,048 of them are used, spread evenly over the rows.
        progress: called with runs of the model done and runs in all.

    Raises:
        UsageError: the program has no weights.
        UnsupportedModel: it has no gated MLP.
    """
    if not program.info.has_weights:
        raise UsageError(f"{program.info.name} was captured from a config alone: it has no weights to run with")
    sparse = run_pipeline(program, [make_pass("dip", {"density": 1.0})]).program
    chosen = sample(windows)
    tokens = chosen.shape[0] * chosen.shape[1]
    runs = len(chosen) * (len(PAIRS) + len(GRID) * len(SITES) * len(sparse.mlps))
    total: dict[Key, float] = {}
    done = 0
    for ids_T in chosen:
        for key, divergence in Sweep(sparse, ids_T).divergences():
            total[key] = total.get(key, 0.0) + divergence / tokens
            done += 1
            if progress is not None:
                progress(done, runs)
    line = fit(DensityPoint(*pair, total[pair]) for pair in PAIRS)
    curves = {
        m.site_prefix: torch.tensor([[total[f"{m.site_prefix}.{site}", rho] for rho in GRID] for site in SITES])
        for m in sparse.mlps
    }
    return DensityAllocation(*line, GRID, curves)


Key = tuple[str | float, float]
"""What was measured: (rho_in, rho_glu) of the whole model, or (site, density) of one site."""


class Sweep(fx.Interpreter):
    """Runs one window through a model at many densities; of runs that begin alike the beginning is run once.

    Args:
        sparse: a program that DIP has rewritten, at any density.
        ids_T: the window.
    """

    def __init__(self, sparse: Program, ids_T: Tensor) -> None:
        graph = sparse.edit()
        output = graph.output_node()
        output.args = (output.args[0][0],)  # type: ignore[index]
        super().__init__(fx.GraphModule(dict(sparse.weights), graph, class_name="Program"))
        self._densities: Mapping[str, float] = {}
        self._program, self._ids_T = sparse, ids_T
        self._select = operators.target("select_topk")
        self._nodes = [n for n in graph.nodes if n.op != "placeholder"]
        self._prefixes = [m.site_prefix for m in sparse.mlps]

    @torch.no_grad()
    def divergences(self) -> Iterator[tuple[Key, float]]:
        """Every measurement with its divergence from dense, in nats summed over the window's tokens.

        Raises:
            NotFinite: the model computes NaN or infinity.
        """
        start = self._start()
        log_p_TV = self._finish(start, 0, {})
        weight_TV = log_p_TV.exp()

        def divergence(log_q_TV: Tensor) -> float:
            found = kl_divergence(log_p_TV, log_q_TV, weight_TV)
            if not math.isfinite(found):
                raise not_finite(self._program, self._ids_T)
            return max(0.0, found)

        for pair in PAIRS:
            densities = {f"{p}.{site}": rho for p in self._prefixes for site, rho in zip(SITES, pair, strict=True)}
            yield pair, divergence(self._finish(start, 0, densities))
        done = 0
        for position in [i for i, n in enumerate(self._nodes) if n.target is self._select]:
            self._advance(start, self._nodes[done:position], {})
            done, site = position, argument(self._nodes[position], "site")
            for rho in GRID:
                yield (site, rho), divergence(self._finish(start, position, {site: rho}))

    def _start(self) -> dict[fx.Node, Any]:
        device = next(iter(self._program.weights.values())).device
        ids_T = self._ids_T.to(device)
        given = {"tokens": ids_T[None], "positions": torch.arange(len(ids_T), device=device)[None]}
        values = [given.get(p.kind, empty_port(p, len(ids_T), 0, str(device))) for p in self._program.inputs]
        return dict(zip([n for n in self.graph.nodes if n.op == "placeholder"], values, strict=True))

    def _finish(self, values: Mapping[fx.Node, Any], position: int, densities: Mapping[str, float]) -> Tensor:
        """Log-probabilities [T, V] from the nodes at `position` on; `values` stay as they are."""
        after = dict(values)
        self._advance(after, self._nodes[position:], densities)
        return log_softmax(after[self._nodes[-1]][0].float(), -1)

    def _advance(self, values: dict[fx.Node, Any], nodes: Sequence[fx.Node], densities: Mapping[str, float]) -> None:
        """Compute nodes into `values`, and drop what no later node reads."""
        self.env, self._densities = values, densities
        for node in nodes:
            values[node] = self.run_node(node)
            for dead in self.user_to_last_uses.get(node, ()):
                del values[dead]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Select as many units as the site's density says; a site that has none keeps everything."""
        if target is self._select:
            score, _, site = args
            args = (score, kept_units(self._densities.get(site, 1.0), score.shape[-1]), site)
        return super().call_function(target, args, kwargs)


def sample(windows: Tensor) -> Tensor:
    """Some rows [N, T] of the windows that together have at most TOKENS tokens, evenly spread; at least one, cut."""
    rows, length = windows.shape[:2]
    count = max(1, min(rows, TOKENS // length))
    return windows[torch.arange(count) * rows // count, :TOKENS]
