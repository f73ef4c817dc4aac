"""One run of a study: a program measured on the text beside the dense one, with its activity recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dipc.evaluation.perplexity import evaluate, perplexity
from dipc.ir.program import Program
from dipc.ir.selections import with_capacities
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.studies.engine.dense_session import CachedDenseSession
from dipc.text import Text

Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class StudyRun:
    """A program, and the units that each cache-aware selection may count on.

    Attributes:
        label: for people.
        pipeline: what makes the program of the dense one; empty for the dense one itself.
        capacities: units by site; empty for a program that follows no cache.
    """

    label: str
    pipeline: str = ""
    capacities: tuple[tuple[str, int], ...] = ()


DENSE_RUN = StudyRun("dense")


@dataclass(frozen=True)
class Measured:
    """The result of a run: perplexity, nats per token to dense, density, scored tokens, and if there is a trace."""

    perplexity: float
    kl: float
    density: float
    tokens: int
    traced: bool


def of_dense(dense: CachedDenseSession, text: Text, windows: TextSpec, watch: Watch) -> Measured:
    """Measure the dense model; what its session keeps serves all that is measured beside it."""
    own = perplexity(dense, text, progress=watch, windows=windows)
    return Measured(own.perplexity, 0.0, 1.0, own.tokens, False)


def measure(
    program: Program, run: StudyRun, dense: CachedDenseSession, text: Text, windows: TextSpec, watch: Watch
) -> tuple[Measured, Trace | None]:
    """Measure a run's program with the capacities of the run.

    Raises:
        NotFinite: the program computes NaN or infinity; its perplexity may be infinite all the same.
    """
    program = with_capacities(program, dict(run.capacities))
    score = evaluate(program, text, dense=dense, record=True, progress=watch, windows=windows)
    traced = score.trace is not None
    return Measured(score.perplexity, score.kl_to_dense, score.density, score.tokens, traced), score.trace
