"""Options of what is trained on text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dipc.errors import UsageError
from dipc.options import MOST_SEED, Flag, Options

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class PartOptions(Options):
    """How the parts of a calibration are measured that take longest: predictors (Eq. 6) and density allocation."""

    hidden: Annotated[int, Flag("Hidden width of the predictors.", metavar="N", min=1)] = 1000
    """As in the paper."""
    epochs: Annotated[int, Flag("Passes that they take over the text at most.", metavar="N", min=1)] = 20
    """Passes over the text at most; training stops where the loss on held-out windows does."""
    allocation_tokens: Annotated[
        int, Flag("Tokens that the density allocation is measured on; its time grows with them.", metavar="N", min=1)
    ] = 1024
    """Tokens that the density allocation is measured on, spread over the text; its time grows with them."""


@dataclass(frozen=True)
class TrainingOptions(Options):
    """How adapters are trained."""

    rank: Annotated[int, Flag("Of the adapters.", metavar="N", min=1)] = 32
    """Of the adapters; 32 as in the paper, which trains 1,000 iterations."""
    iterations: Annotated[int, Flag("Updates.", metavar="N", min=1)] = 1000
    """Updates."""
    batch: Annotated[int, Flag("Windows of an iteration.", metavar="N", min=1)] = 1
    """Windows of an iteration."""
    seq_len: Annotated[
        int | None, Flag("Tokens of a window; by default the context, at most 256.", metavar="N", min=2)
    ] = None
    """Tokens of a window; by default the model's context, at most 256."""
    learning_rate: Annotated[float, Flag("The largest: it rises, then falls to 0.", metavar="RATE")] = 2e-3
    """The largest; it rises over the first twentieth of the iterations and falls to zero."""
    seed: Annotated[int, Flag("Of the whole training.", metavar="N", min=0, max=MOST_SEED)] = 0
    """Of the adapters' random matrices and of the windows' order."""
    resume: Annotated[bool, Flag("Begin anew where a training was cut off.", name="--restart", bare=False)] = True
    """Go on with a training that was cut off, and take a finished one as it is; otherwise begin anew."""
    save_every_s: float = SAVE_EVERY_S
    """Seconds after which a training that is cut off has kept its state."""

    def __post_init__(self) -> None:
        for name in ("rank", "iterations", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name):g}; it must be above 0")
