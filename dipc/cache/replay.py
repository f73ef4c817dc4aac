"""Replay of recorded masks through a cache: bit for bit what `state.update` gives, much faster.

The native library does it where it is built and knows the policy; numpy does it everywhere and for every policy.

Shapes: T tokens, U units of the site, B = ceil(U / 8) bytes, N tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dipc import native
from dipc.cache.next_use import next_uses
from dipc.cache.numpy_cache import advance, first_state
from dipc.cache.policy import Policy, check_online, clamp_capacity
from dipc.errors import UsageError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Packed = npt.NDArray[np.uint8]

_PIECE_TOKENS = 256


def replay(mask_TU: Bools, capacity: int, policy: Policy, popularity: Ints | None = None) -> Ints:
    """Hits of each token when the masks run through an initially empty cache; arguments as of `replay_site`.

    Args:
        mask_TU: bool [T, U], units that each token touches.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.
        popularity: int64 [U], for policies that do not count.

    Returns:
        int64 [T], touched units that were cached before the token.
    """
    packed_TB = np.packbits(mask_TU, axis=1)
    return replay_site(packed_TB, mask_TU.shape[1], [(policy, capacity)], popularity=popularity)[0].hits_T


@dataclass(frozen=True, eq=False)
class SiteReplay:
    """A replayed trace of one site, token by token.

    Attributes:
        hits_T: int64 [T], touched units that were cached before the token.
        missed_TB: uint8 [T, B], the touched units that were not, packed as in a trace; None where nobody asked.
    """

    hits_T: Ints
    missed_TB: Packed | None


def replay_site(
    packed_TB: Packed,
    units: int,
    cases: Sequence[tuple[Policy, int]],
    *,
    popularity: Ints | None = None,
    missed: bool = False,
) -> list[SiteReplay]:
    """Run a site's trace through several caches, each empty at first or, where its policy does not count, loaded.

    Args:
        packed_TB: uint8 [T, B], the touched units as a trace packs them.
        units: U.
        cases: policy and capacity of each cache; the capacity in units, clamped to [0, U].
        popularity: int64 [U] in [0, 2**25), for policies that do not count (`static`).
        missed: also give the units that were missed.

    Returns:
        What each cache made of it, in the order of the cases.

    Raises:
        UsageError: the trace does not have that many units, or a policy lacks its popularity.
    """
    if packed_TB.dtype != np.uint8 or packed_TB.ndim != 2 or packed_TB.shape[1] != -(-units // 8):
        raise UsageError(
            f"a trace of {units} units is uint8 [T, {-(-units // 8)}], not {packed_TB.dtype} {list(packed_TB.shape)}"
        )
    found: dict[int, SiteReplay] = {}
    for online in (True, False):  # a kernel for all cases that need no look ahead, and one for those that do
        together = [n for n, (policy, _) in enumerate(cases) if policy.online == online and _has_kernel(policy)]
        chosen = [cases[n] for n in together]
        found |= zip(together, _replay_together(packed_TB, units, chosen, popularity, missed), strict=True)
    return [
        found.get(n) or _replay_one(packed_TB, units, policy, capacity, popularity, missed)
        for n, (policy, capacity) in enumerate(cases)
    ]


def _has_kernel(policy: Policy) -> bool:
    return policy.native_number is not None and native.library() is not None


def _replay_together(
    packed_TB: Packed, units: int, cases: Sequence[tuple[Policy, int]], popularity: Ints | None, missed: bool
) -> list[SiteReplay]:
    if not cases:
        return []
    for policy, capacity in cases:
        first_state(units, capacity, policy, popularity)  # raises where a policy lacks its popularity
    if cases[0][0].online:
        caches = native.SiteCaches(units, _numbered(units, cases), _ranks(cases, popularity))
        hits_CT, missed_CTB = caches.run(packed_TB, missed=missed)
    else:
        hits_CT, missed_CTB = native.replay_ahead(packed_TB, units, _numbered(units, cases), missed=missed)
    missed_by_case = [None] * len(cases) if missed_CTB is None else list(missed_CTB)
    return [SiteReplay(hits_T, missed_TB) for hits_T, missed_TB in zip(hits_CT, missed_by_case, strict=True)]


def _numbered(units: int, cases: Sequence[tuple[Policy, int]]) -> list[tuple[int, int]]:
    """Return the cases of policies that have a kernel as the native library takes them."""
    numbers = [(policy.native_number, clamp_capacity(policy, capacity, units)) for policy, capacity in cases]
    return [(number, room) for number, room in numbers if number is not None]


def _ranks(cases: Sequence[tuple[Policy, int]], popularity: Ints | None) -> Ints | None:
    """Return the popularity where a policy ranks units by it; the others leave it alone."""
    return None if all(policy.counts for policy, _ in cases) else popularity


def _replay_one(
    packed_TB: Packed, units: int, policy: Policy, capacity: int, popularity: Ints | None, missed: bool
) -> SiteReplay:
    if not policy.online:
        return _replay_offline(packed_TB, units, policy, capacity, popularity, missed)
    cache = Replay(units, capacity, policy, popularity)
    hits_T = np.empty(len(packed_TB), dtype=np.int64)
    missed_TB = np.empty_like(packed_TB) if missed else None
    for piece in _pieces(len(packed_TB)):
        mask_NU = _unpacked(packed_TB[piece], units)
        if missed_TB is None:
            hits_T[piece] = cache.hits(mask_NU)
        else:
            missed_NU = cache.missed(mask_NU)
            missed_TB[piece] = np.packbits(missed_NU, axis=1)
            hits_T[piece] = np.count_nonzero(mask_NU, axis=1) - np.count_nonzero(missed_NU, axis=1)
    return SiteReplay(hits_T, missed_TB)


def _replay_offline(
    packed_TB: Packed, units: int, policy: Policy, capacity: int, popularity: Ints | None, missed: bool
) -> SiteReplay:
    room, state = clamp_capacity(policy, capacity, units), first_state(units, capacity, policy, popularity)
    hits_T = np.empty(len(packed_TB), dtype=np.int64)
    missed_TB = np.empty_like(packed_TB) if missed else None
    token = 0
    for mask_NU, next_NU in next_uses(packed_TB, units):
        for mask, next_use in zip(mask_NU, next_NU, strict=True):
            if missed_TB is not None:
                missed_TB[token] = np.packbits(mask > state[0])
            hits_T[token] = advance(state, mask, room, policy, next_use)
            token += 1
    return SiteReplay(hits_T, missed_TB)


class Replay:
    """A weight cache, at first as before the first token, through which masks run piece by piece.

    All at once would be the same.

    Args:
        units: U.
        capacity: units that fit; clamped to [0, U].
        policy: who stays.
        popularity: int64 [U] in [0, 2**25), for policies that do not count.

    Raises:
        UsageError: the policy is not online, so that pieces do not do, or lacks its popularity.
    """

    def __init__(self, units: int, capacity: int, policy: Policy, popularity: Ints | None = None) -> None:
        check_online(policy)
        self.capacity, self.policy = clamp_capacity(policy, capacity, units), policy
        self._state = first_state(units, capacity, policy, popularity)
        cases = _numbered(units, [(policy, capacity)]) if _has_kernel(policy) else []
        ranks = _ranks([(policy, capacity)], popularity)
        self._native = native.SiteCaches(units, cases, ranks) if cases else None

    def hits(self, mask_NU: Bools) -> Ints:
        """Hits of each token, int64 [N], of further masks bool [N, U]."""
        hits_N: Ints
        if self._native is not None:
            (hits_N,), _ = self._native.run(np.packbits(mask_NU, axis=1))
            return hits_N
        if self.capacity in (0, mask_NU.shape[1]):
            hits_N = np.count_nonzero(mask_NU, axis=1) - np.count_nonzero(self.missed(mask_NU), axis=1)
            return hits_N
        return np.fromiter((self._advance(mask) for mask in mask_NU), np.int64, len(mask_NU))

    def missed(self, mask_NU: Bools) -> Bools:
        """Touched units that were not cached, bool [N, U], of further masks bool [N, U]."""
        if self._native is not None:
            _, missed_CNB = self._native.run(np.packbits(mask_NU, axis=1), missed=True)
            assert missed_CNB is not None
            return _unpacked(missed_CNB[0], mask_NU.shape[1])
        if self.capacity == 0:
            return mask_NU.copy()
        if self.capacity == mask_NU.shape[1]:
            return self._missed_without_eviction(mask_NU)
        missed_NU = np.empty_like(mask_NU)
        for row, mask in enumerate(mask_NU):
            missed_NU[row] = mask > self._state[0]
            self._advance(mask)
        return missed_NU

    def _advance(self, mask: Bools) -> int:
        return advance(self._state, mask, self.capacity, self.policy)

    def _missed_without_eviction(self, mask_NU: Bools) -> Bools:
        cached, *_ = self._state
        touched_NU = np.logical_or.accumulate(np.concatenate([cached[None], mask_NU]), axis=0)
        cached[:] = touched_NU[-1]
        missed_NU: Bools = mask_NU > touched_NU[:-1]
        return missed_NU


def full_hits(units: int, capacity: int, policy: Policy) -> int:
    """Hits per token of a site that every token reads in full, once its cache is warm: min(C, U).

    The same units stay for ever, so this is what `replay` gives for every token after the first.
    """
    return clamp_capacity(policy, capacity, units)


def _pieces(tokens: int) -> Iterator[slice]:
    return (slice(start, start + _PIECE_TOKENS) for start in range(0, tokens, _PIECE_TOKENS))


def _unpacked(packed_NB: Packed, units: int) -> Bools:
    return np.unpackbits(packed_NB, axis=1, count=units).view(np.bool_)
