"""How large the scores of each MLP are: quantiles from a stream, moments, and which units are often among the larger.

A histogram over the upper half of the float32 bit pattern takes any amount of values in 256 KiB: non-negative floats
order as their patterns do, so a bin is at most 1/128 of its value wide, from the smallest to the largest.

Shape legend: U units of a site, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.calibration.tensors import SCORES
from dipc.errors import UsageError
from dipc.ir.selections import kept_units
from dipc.tuning.activity import Activity

QUANTILES = 1025
_FINITE = 0x7F80  # bins: the patterns of infinity and NaN begin here
_SHIFT = 16


class Histogram:
    """Counts of non-negative values as they come. Values that are not finite make `quantiles` raise."""

    def __init__(self) -> None:
        self.counts = torch.zeros(1 << 15, dtype=torch.int64)
        self.total = self.squares = 0.0
        self.least, self.most = torch.inf, 0.0

    def add(self, values: Tensor) -> None:
        """Count values of any shape, each at least 0."""
        flat = values.float().flatten()
        self.counts += torch.bincount(flat.view(torch.int32) >> _SHIFT, minlength=len(self.counts)).cpu()
        self.total += float(flat.sum(dtype=torch.float64))
        self.squares += float(flat.square().sum(dtype=torch.float64))
        self.least, self.most = min(self.least, float(flat.min())), max(self.most, float(flat.max()))

    def merge(self, other: Histogram) -> None:
        """Count what another one counted."""
        self.counts += other.counts
        self.total, self.squares = self.total + other.total, self.squares + other.squares
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def statistics(self) -> Tensor:
        """f32[3]: mean, mean square and maximum."""
        count = int(self.counts.sum())
        return torch.tensor([self.total / count, self.squares / count, self.most])

    def quantiles(self, count: int) -> Tensor:
        """f32[count]: the values at evenly spaced shares from 0 to 1, interpolated within a bin.

        UsageError if there are values that are not finite.
        """
        if self.counts[_FINITE:].any():
            raise UsageError("values that are not finite")
        filled = self.counts.nonzero().flatten()
        below = torch.cat([filled.new_zeros(1), self.counts[filled].cumsum(0)]).double()
        ranks = torch.linspace(0, 1, count, dtype=torch.float64) * below[-1]
        at = torch.searchsorted(below[1:], ranks).clamp_max(len(filled) - 1)
        within = (ranks - below[at]) / self.counts[filled][at]
        low, high = (_edge(filled[at] + i) for i in (0, 1))
        values = (low + (high - low) * within).clamp(self.least, self.most)
        # Exact zeros are many where the activation is ReLU; a threshold must not come to lie above them.
        return torch.where(filled[at] == 0, 0.0, values).float()


def _edge(bins: Tensor) -> Tensor:
    """The value at which a bin begins, in float64; past the last finite one, the largest float32."""
    patterns = (bins << _SHIFT).clamp_max((_FINITE << _SHIFT) - 1)
    return patterns.to(torch.int32).view(torch.float32).double()


class MagnitudeStudy:
    """Collects the part "thresholds": quantiles, statistics and popularity of every MLP."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[str, str], Histogram] = {}
        self._larger: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}

    def see(self, activity: Activity) -> None:
        """Count one MLP's window."""
        mlp = activity.mlp.site_prefix
        for score in SCORES:
            values = activity.score(score)
            self._histograms.setdefault((mlp, score), Histogram()).add(values)
            if score in ("input", "glu"):
                units = values.shape[-1]
                larger = values.topk(kept_units(0.5, units), sorted=False).indices.flatten()
                key = f"{mlp}.{score}"
                self._larger[key] = self._larger.get(key, 0) + torch.bincount(larger, minlength=units).cpu()
                self._tokens[key] = self._tokens.get(key, 0) + len(values)

    def tensors(self) -> dict[str, Tensor]:
        """As `dipc.calibration.tensors` names them. UsageError if an MLP's scores are not finite."""
        made: dict[str, Tensor] = {}
        whole = {score: Histogram() for score in SCORES}
        for (mlp, score), histogram in self._histograms.items():
            try:
                made[f"quantiles.{mlp}.{score}"] = histogram.quantiles(QUANTILES)
            except UsageError as error:
                raise UsageError(f"{mlp}: its {score} has {error} on this text; the model is broken") from error
            made[f"statistics.{mlp}.{score}"] = histogram.statistics()
            whole[score].merge(histogram)
        made |= {f"quantiles.all.{score}": histogram.quantiles(QUANTILES) for score, histogram in whole.items()}
        for key, count in self._larger.items():
            made[f"popularity.{key}"] = (count.double() / self._tokens[key]).float()
        return made
