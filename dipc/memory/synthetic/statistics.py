"""Statistics of a trace's sites: how unequal the units are, and how long a token's choice lasts.

Shape legend: T tokens, U units of a site, B = ceil(U / 8) bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dipc.memory.trace import Counts, Packed, Trace, accesses_by_unit

LAGS = (1, 8, 64)
SHARES = (0.01, 0.5, 0.99)
_PIECE_TOKENS = 256


@dataclass(frozen=True)
class SiteStatistics:
    """One site of a trace.

    Attributes:
        units: U.
        density: mean share of the units that a token touches.
        popularity: the share of tokens that touch a unit, at the quantiles `SHARES` of the units.
        correlation: what knowing one token's mask tells of a later one's, at the distances `LAGS`, beyond popularity: 1
            where they are the same, 0 where they are independent; None where the trace is too short, or every unit is
            always or never touched.
    """

    units: int
    density: float
    popularity: tuple[float, ...]
    correlation: tuple[float | None, ...]


def site_statistics(trace: Trace, site: str) -> SiteStatistics:
    """The statistics of one site; the trace is read in pieces.

    Args:
        trace: of at least one token.
        site: which.
    """
    packed_TB, units = trace.sites[site], trace.units[site]
    tokens = len(packed_TB)
    count_U = accesses_by_unit(packed_TB, units)
    share_U = count_U / tokens
    return SiteStatistics(
        units,
        float(share_U.mean()),
        tuple(float(q) for q in np.quantile(share_U, SHARES)),
        tuple(_correlation(packed_TB, count_U, lag) for lag in LAGS),
    )


def _correlation(packed_TB: Packed, count_U: Counts, lag: int) -> float | None:
    tokens, pairs = len(packed_TB), len(packed_TB) - lag
    if pairs < 1:
        return None
    share_U = count_U / tokens
    variance = float((share_U * (1 - share_U)).sum())
    if variance == 0:
        return None
    both = 0
    for start in range(0, pairs, _PIECE_TOKENS):
        earlier_TB = packed_TB[start : min(start + _PIECE_TOKENS, pairs)]
        later_TB = packed_TB[start + lag : start + lag + len(earlier_TB)]
        both += int(np.bitwise_count(earlier_TB & later_TB).sum(dtype=np.int64))
    earlier_U = (count_U - accesses_by_unit(packed_TB[pairs:], len(count_U))) / pairs
    later_U = (count_U - accesses_by_unit(packed_TB[:lag], len(count_U))) / pairs
    return (both / pairs - float(earlier_U @ later_U)) / variance
