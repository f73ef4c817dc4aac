"""Which tokens of a window are sparse and which are scored, as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dipc.options import Flag, Options


@dataclass(frozen=True)
class ScoringOptions(Options):
    """Which tokens are sparse and which are scored."""

    protocol: Annotated[
        str | None,
        Flag("Which tokens are sparse and scored: dip, decode, last-fraction, teal, wina.", metavar="NAME"),
    ] = None
    """One of `dipc.evaluation.protocol.PROTOCOLS`; by default `dip`, and `decode` for a program of `scope=decode`."""
    prefill: Annotated[
        int | None, Flag("With decode: tokens of each window to leave dense; by default half.", metavar="N", min=1)
    ] = None
    """With `decode`, tokens of each window that are left dense and not scored; by default half of it."""
    fraction: Annotated[
        float | None, Flag("With last-fraction: share of each window, at its end, to sparsify.", metavar="X")
    ] = None
    """With `last-fraction`, the share of each window, at its end, that is sparse."""
    tokens_per_call: int | None = None
    """Feed a window in pieces; by default at once. The selection is the same either way."""
