"""Draw scores: magnitudes of a site's units, token after token, from its activity model.

Shape legend: T tokens, U units of the site, P = 2 normal numbers per unit and token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dipc.memory.synthetic.activity import SiteActivity
from dipc.memory.synthetic.normal import Singles, Transform, quantile_points

_PIECE_SCORES = 1 << 20
"""In a piece: 4 MiB of each array that is made on the way, which a processor's cache nearly holds."""


class Scores:
    """An endless stream of scores of one site: the same for the same seed, however it is taken.

    Args:
        activity: of the site.
        units: U.
        seed: numbers that numpy's PCG64 starts from; each site has a stream of its own.
    """

    def __init__(self, activity: SiteActivity, units: int, seed: tuple[int, ...]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))
        # As many units of each popularity as the distribution has, so that a small site has its share of popular ones.
        popularity_U = Transform(activity.popularity)(quantile_points(units).astype(np.float32))
        self.popularity_U: Singles = self._generator.permutation(popularity_U)
        self._noise = Transform(activity.noise)
        self._old, self._new = activity.persistence, math.sqrt(1 - activity.persistence**2)
        self._lasting, self._passing = math.sqrt(activity.persistent), math.sqrt(1 - activity.persistent)
        self._lasting_U = self._normal(units)

    @property
    def ranks_U(self) -> npt.NDArray[np.int64]:
        """int64 [U]: the units' places by popularity, 0 for the least popular."""
        return np.argsort(np.argsort(self.popularity_U, kind="stable"), kind="stable").astype(np.int64)

    def draw(self, tokens: int) -> Singles:
        """The next tokens' scores, float32 [T, U], positive."""
        normal_TPU = self._normal(tokens, 2, len(self.popularity_U))
        for fresh_PU in normal_TPU:
            self._lasting_U = np.float32(self._old) * self._lasting_U + np.float32(self._new) * fresh_PU[0]
            fresh_PU[0] = np.float32(self._lasting) * self._lasting_U + np.float32(self._passing) * fresh_PU[1]
        level_TU = self._noise(normal_TPU[:, 0])
        level_TU += self.popularity_U
        scores_TU: Singles = np.exp(level_TU, out=level_TU)
        return scores_TU

    def pieces(self, tokens: int) -> Iterator[Singles]:
        """So many tokens' scores, in pieces whose size does not grow with their number."""
        size = max(_PIECE_SCORES // len(self.popularity_U), 1)
        for start in range(0, tokens, size):
            yield self.draw(min(size, tokens - start))

    def _normal(self, *shape: int) -> Singles:
        return self._generator.standard_normal(shape, dtype=np.float32)
