"""Replay of recorded masks through several caches of a site at once, on numpy arrays.

Shapes: C cases (a policy and a capacity each), T tokens, U units of the site, B = ceil(U / 8) bytes. Masks are packed
as numpy does it: unit 0 is the highest bit of byte 0.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dipc.native.cache_scan import POLICIES, policy_number
from dipc.native.call import check, opened, pointer, typed

ORACLES: Mapping[str, int] = MappingProxyType({"belady": 6, "belady-demand": 7})
"""The policies that need the whole trace, and their numbers in the C interface."""

REPLAYED = (*POLICIES, *ORACLES)
"""The policies whose replay has a kernel."""

Cases = Sequence[tuple[str, int]]
"""Policy and capacity of each cache; the capacity in units, clamped to [0, U]."""

Replayed = tuple[NDArray[np.int64], NDArray[np.uint8] | None]
"""Hits int64[C, T], and where asked for the missed units uint8[C, T, B]."""


class SiteCaches:
    """Caches of one site through which masks run piece by piece, each cold at first (`static`: full).

    One thread at a time may use them; the interpreter's lock is free meanwhile, so that sites can run in parallel.

    Args:
        units: U.
        cases: policies of `POLICIES` and their capacities.
        popularity: int64[U], by which `static` ranks units, the greater first; others leave it alone.

    Raises:
        ValueError: a policy has no kernel, or lacks its popularity.
        MissingDependency: the native library is absent.
    """

    def __init__(self, units: int, cases: Cases, popularity: NDArray[np.int64] | None = None) -> None:
        library = opened()
        self.units, self.cases = units, len(cases)
        policies = np.array([policy_number(policy) for policy, _ in cases], np.int32)
        capacities = _capacities(cases, units)
        ranks = popularity if "static" in dict(cases) else None
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


def replay(
    packed_TB: NDArray[np.uint8],
    units: int,
    cases: Cases,
    popularity: NDArray[np.int64] | None = None,
    *,
    missed: bool = False,
) -> Replayed:
    """Run a whole trace of a site through several caches: all of `POLICIES`, or all of `ORACLES`.

    Args:
        packed_TB: uint8[T, B], the touched units.
        units: U.
        cases: as of `SiteCaches`; those of `ORACLES` stand alone.
        popularity: as of `SiteCaches`.
        missed: also give the units that were not cached.

    Raises:
        ValueError: as `SiteCaches` and its `run`.
        MissingDependency: the native library is absent.
    """
    if any(policy not in ORACLES for policy, _ in cases):
        return SiteCaches(units, cases, popularity).run(packed_TB, missed=missed)
    packed_TB, hits, missed_CTB = _prepared(packed_TB, units, len(cases), missed)
    policies = np.array([ORACLES[policy] for policy, _ in cases], np.int32)
    capacities = _capacities(cases, units)  # named, for a pointer does not keep an array alive
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


def _capacities(cases: Cases, units: int) -> NDArray[np.int64]:
    return np.array([min(max(capacity, 0), units) for _, capacity in cases], np.int64)
