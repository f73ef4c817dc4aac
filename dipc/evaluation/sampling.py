"""How text is written: the choice of each token, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from dipc.errors import UsageError
from dipc.options import MOST_SEED, Flag, Options


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How the next token is chosen, and when to stop."""

    max_new_tokens: Annotated[int, Flag("Stop after so many tokens.", metavar="N", min=1)] = 40
    """The model's end token and the end of its context stop earlier."""
    temperature: Annotated[float, Flag("0 takes the likeliest token; above 0 samples.", metavar="X", min=0)] = 0.0
    """0 takes the likeliest token; above 0 samples."""
    seed: Annotated[int, Flag("Of the sampling.", metavar="N", min=0, max=MOST_SEED)] = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(
                f"temperature is {self.temperature:g}; it must be 0 (the likeliest token) or a number above"
            )
