"""`fit_activity`: an activity model from what a real model does on text, by the method of moments.

The text is read twice: what a unit does on average must be known before what a token adds to it. Of each window only
sums and counts are kept.

Shape legend: T tokens of a window, U units of a site, G points of `normal.GRID_G`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dipc.ir.identity import Identity
from dipc.ir.program import Program
from dipc.memory.synthetic.activity import ActivityModel, Fitted, SiteActivity
from dipc.memory.synthetic.normal import Floats, latent_correlation, shares
from dipc.options import TextSpec
from dipc.text import Text, sample_text
from dipc.tuning.activity import Activity, Watcher
from dipc.tuning.measure import dense_form, full_windows
from dipc.version import __version__

MAX_TOKENS = 16_384
"""Of the text, unless told otherwise; four times as many change no figure by a point."""
LAGS = (1, 8)
"""Distances in tokens at which the noise's correlation is measured: the first and what is left of it."""
_SMALLEST = 1e-6
"""Magnitudes below this part of their token's mean count as it: ReLU makes zeros, which have no logarithm."""
_WIDTH, _BINS = 1 / 64, 4096


def fit_activity(
    program: Program,
    text: Text | str | None = None,
    *,
    windows: TextSpec = TextSpec(max_tokens=MAX_TOKENS),
    progress: Callable[[int, int], None] | None = None,
) -> ActivityModel:
    """Fit an activity model to a model that has weights.

    Args:
        program: what is measured is its dense form.
        text: what to measure on; by default the sample that comes with dipc.
        windows: how much of the text, in which windows; a last window that is not full is left out.
        progress: called with windows read and in all.

    Raises:
        UsageError: no weights, no tokenizer, or a text shorter than a window.
        UnsupportedModel: the model has no gated MLP.
    """
    dense = dense_form(program)
    text = sample_text() if text is None else Text("text", text) if isinstance(text, str) else text
    model = Identity.of(dense, "eager")
    seq_len = model.usual_context if windows.seq_len is None else windows.seq_len
    rows = full_windows(model, text, seq_len, windows.max_tokens)
    sites: dict[tuple[str, int], SiteMoments] = {}
    for again in (False, True):
        _read(dense, rows, sites, again, progress)
    return ActivityModel(
        fitted=Fitted(
            model=model.name,
            digest=model.digest,
            text=text.name,
            text_digest=text.digest,
            tokens=len(rows) * seq_len,
            seq_len=seq_len,
            dipc=__version__,
        ),
        input=_by_depth(sites, "input", dense.info.layers),
        glu=_by_depth(sites, "glu", dense.info.layers),
    )


@dataclass
class SiteMoments:
    """Sums over the tokens of one site: `add` all of them, then `add_noise` all of them again."""

    units: int
    tokens: int = 0
    sum_U: Tensor = field(init=False)
    bins: Tensor = field(init=False)
    products: list[float] = field(default_factory=lambda: [0.0] * (1 + len(LAGS)))
    pairs: list[int] = field(default_factory=lambda: [0] * (1 + len(LAGS)))

    def __post_init__(self) -> None:
        self.sum_U = torch.zeros(self.units, dtype=torch.float64)
        self.bins = torch.zeros(_BINS, dtype=torch.int64)

    @property
    def popularity_U(self) -> Tensor:
        """Mean log magnitude of each unit, f64[U]."""
        return self.sum_U / self.tokens

    def add(self, level_TU: Tensor) -> None:
        """First reading: what the units do on average."""
        self.sum_U += level_TU.sum(0, dtype=torch.float64)
        self.tokens += len(level_TU)

    def add_noise(self, level_TU: Tensor) -> None:
        """Second reading: what is left, its distribution and its products with itself some tokens later."""
        noise_TU = level_TU - self.popularity_U.float()
        cell = (noise_TU / _WIDTH + _BINS / 2).floor().clamp(0, _BINS - 1).long()
        self.bins += torch.bincount(cell.flatten(), minlength=_BINS)
        for i, lag in enumerate((0, *LAGS)):
            product = noise_TU[lag:] * noise_TU[: max(len(noise_TU) - lag, 0)]
            self.products[i] += float(product.sum(dtype=torch.float64))
            self.pairs[i] += product.numel()

    def fitted(self, depth: float) -> SiteActivity:
        """The parameters that have these moments."""
        noise_G = self._noise_quantiles()
        variance, *later = (p / max(n, 1) for p, n in zip(self.products, self.pairs, strict=True))
        correlations = [latent_correlation(noise_G.tolist(), c / variance if variance else 0.0) for c in later]
        persistent, persistence = persistence_of(correlations[0], correlations[1])
        return SiteActivity(
            depth=depth,
            popularity=_rounded(np.quantile(self.popularity_U.numpy(), shares())),
            noise=_rounded(noise_G),
            persistent=round(persistent, 4),
            persistence=round(persistence, 4),
        )

    def _noise_quantiles(self) -> Floats:
        edges = (np.arange(_BINS + 1) - _BINS / 2) * _WIDTH
        below = np.concatenate([[0], np.cumsum(self.bins.numpy())]) / float(self.bins.sum())
        quantiles: Floats = np.interp(shares(), below, edges)
        return quantiles


def persistence_of(first: float, second: float) -> tuple[float, float]:
    """The share w and the persistence r whose correlation w r^lag is the given one at both of `LAGS`.

    Where the second is no smaller than the first, as by chance where both are nearly 0, nothing fades: r is 0.999.

    Args:
        first: correlation at the first lag, in [0, 1].
        second: at the second.
    """
    if first <= 0:
        return 0.0, 0.0
    fading = min(max(second / first, 1e-3), 1.0) ** (1 / (LAGS[1] - LAGS[0]))
    persistence = min(fading, 0.999)
    return min(first / persistence ** LAGS[0], 1.0), persistence


def _read(
    dense: Program,
    rows: Sequence[Tensor],
    sites: dict[tuple[str, int], SiteMoments],
    again: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    def see(activity: Activity) -> None:
        for kind in ("input", "glu"):
            level_TU = log_magnitudes(activity.score(kind))
            site = sites.setdefault((kind, activity.mlp.layer), SiteMoments(level_TU.shape[1]))
            site.add_noise(level_TU) if again else site.add(level_TU)

    watcher = Watcher(dense, see)
    for done, ids in enumerate(rows, 1):
        watcher.read(ids)
        if progress is not None:
            progress(done + again * len(rows), 2 * len(rows))


def log_magnitudes(score_TU: Tensor) -> Tensor:
    """Log of magnitudes f32[T, U] beside the token's mean: what all units of a token share decides nothing."""
    score_TU = score_TU.cpu().float()
    smallest = _SMALLEST * score_TU.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny / _SMALLEST)
    level_TU = torch.maximum(score_TU, smallest).log()
    return level_TU - level_TU.mean(1, keepdim=True)


def _by_depth(sites: dict[tuple[str, int], SiteMoments], kind: str, layers: int) -> tuple[SiteActivity, ...]:
    chosen = sorted((layer, site) for (k, layer), site in sites.items() if k == kind)
    return tuple(site.fitted(round(layer / max(layers - 1, 1), 4)) for layer, site in chosen)


def _rounded(values: Floats) -> tuple[float, ...]:
    """To four decimals: a ten-thousandth of a log magnitude moves nothing."""
    return tuple(round(float(v), 4) for v in values)
