"""Replay of recorded masks through several caches of a site at once, on numpy arrays.

Shapes: C cases (a policy and a capacity each), T tokens, U units of the site, B = ceil(U / 8) bytes. Masks are packed
as numpy does it: unit 0 is the highest bit of byte 0.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dipc.native.call import check, opened, pointer, typed

Cases = Sequence[tuple[int, int]]
"""Policy, by its number in the C interface, and capacity of each cache; the capacity in units, clamped to [0, U]."""

Replayed = tuple[NDArray[np.int64], NDArray[np.uint8] | None]
"""Hits int64[C, T], and where asked for the missed units uint8[C, T, B]."""


class SiteCaches:
    """Caches of one site through which masks run piece by piece, each cold at first (under `static` full).

    One thread at a time may use them; the interpreter's lock is free meanwhile, so that sites can run in parallel.

    Args:
        units: U.
        cases: policies that need to know the past only, and their capacities.
        popularity: int64[U], by which `static` ranks units, the greater first; others leave it alone.

    Raises:
        ValueError: a policy has no such kernel, or lacks its popularity.
        MissingDependency: the native library is absent.
    """

    def __init__(self, units: int, cases: Cases, popularity: NDArray[np.int64] | None = None) -> None:
        library = opened()
        self.units, self.cases = units, len(cases)
        policies, capacities = _policies(cases), _capacities(cases, units)
        ranks = popularity
        if ranks is not None:
            ranks = np.ascontiguousarray(typed("popularity", ranks, np.int64, units))
        self._handle = ctypes.c_void_p()
        arguments = [units, pointer(policies), pointer(capacities), self.cases, pointer(ranks)]
        check(library.dipc_replay_open(*arguments, ctypes.byref(self._handle)))
        weakref.finalize(self, library.dipc_replay_close, self._handle)

    def run(self, packed_TB: NDArray[np.uint8], *, missed: bool = False) -> Replayed:
        """Run further tokens through all caches.

        Args:
            packed_TB: uint8[T, B], the touched units.
            missed: also give those that were not cached.

        Raises:
            ValueError: the shape or dtype is not as stated.
        """
        packed_TB, hits, missed_CTB = _prepared(packed_TB, self.units, self.cases, missed)
        arguments = [self._handle, pointer(packed_TB), len(packed_TB), pointer(hits), pointer(missed_CTB)]
        check(opened().dipc_replay_run(*arguments))
        return hits, missed_CTB


def replay_ahead(packed_TB: NDArray[np.uint8], units: int, cases: Cases, *, missed: bool = False) -> Replayed:
    """Run a whole trace of a site through several caches whose policies know what is touched next.

    Args:
        packed_TB: uint8[T, B], the touched units.
        units: U.
        cases: such policies, and their capacities.
        missed: also give the units that were not cached.

    Raises:
        ValueError: a policy has no such kernel, or the masks' shape or dtype is not as stated.
        MissingDependency: the native library is absent.
    """
    packed_TB, hits, missed_CTB = _prepared(packed_TB, units, len(cases), missed)
    policies, capacities = _policies(cases), _capacities(cases, units)  # a pointer does not keep an array alive
    chosen = [pointer(policies), pointer(capacities), len(cases)]
    written = [pointer(hits), pointer(missed_CTB)]
    check(opened().dipc_replay_belady(pointer(packed_TB), len(packed_TB), units, *chosen, *written))
    return hits, missed_CTB


def _prepared(
    packed_TB: NDArray[np.uint8], units: int, cases: int, missed: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8] | None]:
    """The masks without gaps, and room for what comes out."""
    tokens = len(packed_TB)
    packed_TB = np.ascontiguousarray(typed("packed_TB", packed_TB, np.uint8, tokens, -(-units // 8)))
    missed_CTB = np.empty((cases, *packed_TB.shape), np.uint8) if missed else None
    return packed_TB, np.empty((cases, tokens), np.int64), missed_CTB


def _policies(cases: Cases) -> NDArray[np.int32]:
    return np.array([policy for policy, _ in cases], np.int32)


def _capacities(cases: Cases, units: int) -> NDArray[np.int64]:
    return np.array([min(max(capacity, 0), units) for _, capacity in cases], np.int64)
