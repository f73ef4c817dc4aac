"""The programs of a study: compiled when they are first asked for, and what pricing wants to know of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dipc.ir.program import Program
from dipc.ir.selections import cache_aware, popularities
from dipc.memory.lowering import lower, program_density
from dipc.memory.traffic import TrafficProgram
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline

KEPT_PROGRAMS = 4


@dataclass(frozen=True)
class Lowered:
    """The remains of a program once its weights are let go of.

    Attributes:
        traffic: of a token.
        cache_aware: the sites whose selection follows a cache.
        density: kept weights of all weights of the MLPs, by what is selected.
        popularity: of the units, by site, where a cache-aware selection goes by it.
    """

    traffic: TrafficProgram
    cache_aware: frozenset[str]
    density: float
    popularity: dict[str, npt.NDArray[np.int64]]


class Programs:
    """Programs by the pipeline that makes them of the dense one; the empty pipeline is the dense one.

    Args:
        dense: with its MLPs outlined.
        bits_per_weight: at which weights are priced; None for the checkpoint's.
    """

    def __init__(self, dense: Program, bits_per_weight: float | None) -> None:
        self.dense, self.bits_per_weight = dense, bits_per_weight
        self.compiled = lru_cache(maxsize=KEPT_PROGRAMS)(self._compiled)
        self._lowered: dict[str, Lowered] = {}

    def lowered(self, pipeline: str) -> Lowered:
        """The program's traffic. Raises what compiling raises."""
        if pipeline not in self._lowered:
            program = self.compiled(pipeline)
            traffic = lower(program, self.bits_per_weight)
            aware, density = frozenset(cache_aware(program)), program_density(program)
            self._lowered[pipeline] = Lowered(traffic, aware, density, popularities(program))
        return self._lowered[pipeline]

    @property
    def dense_bytes(self) -> float:
        """The size of the dense model at the width at which it is priced."""
        return self.lowered("").traffic.total_bytes

    def _compiled(self, pipeline: str) -> Program:
        return run_pipeline(self.dense, parse_pipeline(pipeline)).program if pipeline else self.dense
