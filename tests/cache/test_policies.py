"""What each eviction policy does, on cases worked by hand, and what no policy may do, on any trace."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipc.cache import Policy, get_policy, policy_names
from dipc.cache.next_use import NEVER, next_uses
from dipc.cache.replay import replay, replay_site
from dipc.cache.state import update
from dipc.errors import UsageError
from kit.cache_reference import ONLINE, Bools, Ints, first_state, mask_of, masks, policies, popularity, reference

REMEMBERING = [name for name in policy_names() if not get_policy(name).drops_count_on_evict]


def held(touched: Sequence[Sequence[int]], units: int, capacity: int, policy: str) -> list[list[int]]:
    """Cached units before each token and after the last, under `popularity` of caches.py where that matters."""
    mask_TU = mask_of([*touched, []], units)
    return [np.flatnonzero(row).tolist() for row in reference(mask_TU, capacity, get_policy(policy))]


def hits(touched: Sequence[Sequence[int]], units: int, capacity: int, policy: Policy | str) -> list[int]:
    mask_TU = mask_of(touched, units)
    rule = get_policy(policy) if isinstance(policy, str) else policy
    found: list[int] = replay(mask_TU, capacity, rule, popularity(mask_TU)).tolist()
    return found


def total(mask_TU: Bools, capacity: int, policy: Policy) -> int:
    return int(replay(mask_TU, capacity, policy, popularity(mask_TU)).sum())


# --- One policy each, by hand ---


def test_lfu_in_cache_forgets_what_it_evicts() -> None:
    # After five tokens 0 has been touched three times and 1 four times; then 2 and 3 come, and are all that fits.
    touched = [[0], [0, 1], [0, 1], [1], [1], [2, 3], [0], [0], [1], [3]]
    before = [[], [0], [0, 1], [0, 1], [0, 1], [0, 1], [2, 3], [0, 2], [0, 2], [0, 1]]
    # At last 0 and 1 have 5 each under `lfu`, and 0 is older; else 2 and 1, since they came back.
    assert held(touched, 4, 2, "lfu") == [*before, [1, 3]]
    assert held(touched, 4, 2, "lfu-in-cache") == [*before, [0, 3]]


def test_lfu_admission_keeps_what_is_warm() -> None:
    # 0 and 1 are touched twice each; 2, touched once, displaces 1 under `lfu` and is read past them here.
    touched = [[0, 1], [0, 1], [2], [1], [0]]
    assert held(touched, 3, 2, "lfu") == [[], [0, 1], [0, 1], [0, 2], [0, 1], [0, 1]]
    assert hits(touched, 3, 2, "lfu") == [0, 2, 0, 0, 1]
    assert held(touched, 3, 2, "lfu-admission") == [[], *[[0, 1]] * 5]
    assert hits(touched, 3, 2, "lfu-admission") == [0, 2, 0, 1, 1]
    # Touched a second time, it is as warm as 0 and 1, and newer.
    assert held([*touched[:3], [2]], 3, 2, "lfu-admission")[-1] == [0, 2]


def test_lfu_admission_counts_what_it_does_not_hold_and_does_not_protect_the_token() -> None:
    # 2 and 3 in one token: only the warmer of the four stay, and of those that tokens touched alike the last touched.
    assert held([[0, 1], [0], [0], [2, 3]], 4, 2, "lfu-admission")[-1] == [0, 2]
    assert held([[0, 1], [0], [0], [2, 3], [3], [3]], 4, 2, "lfu-admission")[-1] == [0, 3]


def test_static_holds_the_most_popular_from_the_first_token_on() -> None:
    # Popularity of units 0 to 5: 0, 2, 4, 1, 3, 0.
    assert popularity(np.zeros((1, 6), dtype=np.bool_)).tolist() == [0, 2, 4, 1, 3, 0]
    touched = [[0, 2], [0, 1, 4], [5], [0, 1, 2, 3, 4, 5]]
    assert held(touched, 6, 3, "static") == [[1, 2, 4]] * 5
    assert hits(touched, 6, 3, "static") == [1, 2, 0, 3]
    assert held(touched, 6, 5, "static") == [[0, 1, 2, 3, 4]] * 5  # of equals the lower index


@pytest.mark.smoke
def test_belady_reads_past_the_cache_what_is_not_needed_soon() -> None:
    # One unit fits: 0 is needed at tokens 2 and 4, and 1 never while 0 is not. Any cache that admits 1 hits nothing.
    touched = [[0], [1], [0], [1], [0]]
    assert hits(touched, 2, 1, "belady") == [0, 0, 1, 0, 1]
    assert hits(touched, 2, 1, "lru") == [0, 0, 0, 0, 0]
    # Of 0, 1 and 2 the two needed soonest stay: 1 (token 1) and 2 (token 2) rather than 0 (token 3).
    assert hits([[0, 1, 2], [1], [2], [0, 1]], 3, 2, "belady") == [0, 1, 1, 1]


def test_next_uses_by_hand_and_whatever_the_blocks() -> None:
    mask_TU = mask_of([[0], [1], [0, 2], [], [1]], units=3)
    found = list(next_uses(np.packbits(mask_TU, axis=1), 3))
    assert [len(mask) for mask, _ in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([mask for mask, _ in found]), mask_TU)
    never = NEVER
    expected = [[2, 1, 2], [2, 4, 2], [never, 4, never], [never, 4, never], [never, never, never]]
    assert np.concatenate([after for _, after in found]).tolist() == expected


# --- No policy on any trace ---


def best_possible(mask_TU: Bools, capacity: int) -> int:
    """The most hits that any choice of what to keep gives, by trying them all."""
    best = {frozenset[int](): 0}
    for mask in mask_TU:
        now = frozenset(np.flatnonzero(mask).tolist())
        after = dict[frozenset[int], int]()
        for kept, so_far in best.items():
            candidates = sorted(kept | now)
            count = so_far + len(kept & now)
            for chosen in itertools.combinations(candidates, min(capacity, len(candidates))):
                after[frozenset(chosen)] = max(after.get(frozenset(chosen), 0), count)
        best = after
    return max(best.values())


@settings(max_examples=60, deadline=None)
@given(masks(tokens=7, units=5), st.integers(0, 5))
def test_belady_is_the_best_there_is(mask_TU: Bools, capacity: int) -> None:
    assert total(mask_TU, capacity, get_policy("belady")) == best_possible(mask_TU, capacity)


@pytest.mark.parametrize("name", policy_names())
@settings(max_examples=100, deadline=None)
@given(masks(tokens=40), st.integers(0, 20))
def test_belady_is_never_beaten(name: str, mask_TU: Bools, capacity: int) -> None:
    policy = get_policy(name)
    found = replay(mask_TU, capacity, policy, popularity(mask_TU))
    # A cache that is loaded beforehand has hits at first touches, which no other can have: they are not compared.
    if not policy.counts:
        first_TU = mask_TU & (np.cumsum(mask_TU, axis=0) == 1)
        loaded_U = first_state(mask_TU, capacity, policy).cached.numpy()
        found = found - np.count_nonzero(first_TU & loaded_U, axis=1)
    assert int(found.sum()) <= total(mask_TU, capacity, get_policy("belady"))


@pytest.mark.parametrize("name", REMEMBERING)
@settings(max_examples=60, deadline=None)
@given(masks(tokens=40), st.integers(0, 20))
def test_more_capacity_never_costs_a_hit(name: str, mask_TU: Bools, capacity: int) -> None:
    """Not even for one token: a larger cache holds all that a smaller one does, whatever tokens touch.

    A policy whose keys do not depend on the capacity ranks the same candidates alike at both. Where it protects the
    present token's units, those cached already come first; the larger cache has one more of them at most, and room for
    one more. `lfu-in-cache` forgets sooner in a smaller cache, and has no such order.
    """
    policy, units = get_policy(name), mask_TU.shape[1]
    packed_TB = np.packbits(mask_TU, axis=1)
    sizes = (capacity, capacity + 1)
    small, large = replay_site(
        packed_TB, units, [(policy, c) for c in sizes], popularity=popularity(mask_TU), missed=True
    )
    assert small.missed_TB is not None and large.missed_TB is not None
    assert not (large.missed_TB & ~small.missed_TB).any()


def test_more_capacity_may_cost_a_cache_that_forgets() -> None:
    touched = [[2], [0], [1], [1], [2], [0], [3], [1], [3], [3], [1]]
    # With room for two, 2 and 0 come and go, and in the end 1 and 3 are there.
    assert hits(touched, 4, 2, "lfu-in-cache") == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]
    # With room for three, 0 and 2 are hit once and then hold their places while 1 and 3 displace each other.
    assert hits(touched, 4, 3, "lfu-in-cache") == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0]


@given(masks(), policies.filter(lambda policy: policy.name not in ("none", "static")))
def test_a_cache_for_all_units_misses_first_touches_only(mask_TU: Bools, policy: Policy) -> None:
    misses = int(mask_TU.sum()) - total(mask_TU, mask_TU.shape[1], policy)
    assert misses == np.count_nonzero(mask_TU.any(axis=0))


@given(masks(), st.integers(-1, 22))
def test_none_never_hits(mask_TU: Bools, capacity: int) -> None:
    assert not total(mask_TU, capacity, get_policy("none"))


@given(masks(), st.integers(0, 20), policies)
def test_hits_are_at_most_what_fits_and_none_at_first(mask_TU: Bools, capacity: int, policy: Policy) -> None:
    hits_T = replay(mask_TU, capacity, policy, popularity(mask_TU))
    assert len(hits_T) == len(mask_TU)
    assert np.all(hits_T >= 0) and np.all(hits_T <= np.minimum(mask_TU.sum(axis=1), capacity))
    assert not policy.counts or not hits_T[:1].any()


def test_belady_of_many_cases_is_belady_of_each() -> None:
    mask_TU = np.random.default_rng(5).random((200, 33)) < 0.3
    packed_TB, belady = np.packbits(mask_TU, axis=1), get_policy("belady")
    cases = [(belady, 0), (get_policy("lfu"), 9), (belady, 9), (belady, 20), (belady, 33)]
    together = replay_site(packed_TB, 33, cases, missed=True)
    for found, case in zip(together, cases, strict=True):
        (alone,) = replay_site(packed_TB, 33, [case])
        assert found.hits_T.tolist() == alone.hits_T.tolist()


def test_a_cache_without_tokens() -> None:
    for name in policy_names():
        (found,) = replay_site(np.zeros((0, 1), np.uint8), 8, [(get_policy(name), 3)], popularity=np.arange(8))
        assert found.hits_T.shape == (0,)


def test_the_torch_reference_refuses_an_oracle() -> None:
    mask_TU = mask_of([[0]], units=2)
    state = first_state(mask_TU, 1, get_policy("lru"))
    with pytest.raises(UsageError, match="belady needs the whole recorded trace at once"):
        update(state, state.cached, 1, get_policy("belady"))


@pytest.mark.parametrize("name", ONLINE)
def test_the_weights_that_an_onnx_file_says_make_the_key(name: str) -> None:
    freq, last_used = np.array([0, 1, 7, 2**24]), np.array([-1, 5, 0, 2**25 - 2])
    weights = get_policy(name).key_weights
    assert weights is not None
    by_count, by_time = weights
    assert get_policy(name).key(freq, last_used).tolist() == (by_count * freq + by_time * (last_used + 1)).tolist()


# --- Against libCacheSim ---


def simulated(kind: str, units: Ints, capacity: int) -> list[int]:
    """Hits of libCacheSim, 0.3.5, request by request."""
    import libcachesim

    cache = getattr(libcachesim, kind)(cache_size=capacity, hashpower=10)
    mask_TU = np.eye(int(units.max()) + 1, dtype=np.bool_)[units]
    packed_TB = np.packbits(mask_TU, axis=1)
    found = []
    after_TU = np.concatenate([after for _, after in next_uses(packed_TB, mask_TU.shape[1])])
    for token, unit in enumerate(units):
        request = libcachesim.Request()
        request.obj_id, request.obj_size, request.clock_time = int(unit), 1, token
        after = int(after_TU[token, unit])
        request.next_access_vtime = 2**63 - 1 if after == NEVER else after
        found.append(int(cache.get(request)))
    return found


def stream(seed: int) -> Ints:
    """One unit per token, of 24 that differ in popularity."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 25)
    return rng.choice(24, 400, p=share / share.sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [1, 2, 5, 12, 23])
def test_streams_of_one_unit_hit_as_in_libcachesim(seed: int, capacity: int) -> None:
    """Hits of every single request, for LRU, in-cache LFU and Belady.

    With one unit per token a token set is a request, and what dipc adds to the rule, the order within a set, is void.
    libCacheSim's LFU forgets the count of what it evicts, as `lfu-in-cache` does; of equal counts it evicts the one
    that got there first, which is the one touched longest ago, so that ties go alike. Its Belady evicts the furthest
    next use of what it holds and then always admits, as `belady-demand` does, where `belady` may read past the cache:
    so its hits lie between those and the hits with room for one more. Units that are never used again are equals to
    both, and which of them goes changes no hit.
    """
    pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    units = stream(seed)
    touched = [[int(unit)] for unit in units]
    assert hits(touched, 24, capacity, "lru") == simulated("LRU", units, capacity)
    assert hits(touched, 24, capacity, "lfu-in-cache") == simulated("LFU", units, capacity)
    theirs = simulated("Belady", units, capacity)
    assert hits(touched, 24, capacity, "belady-demand") == theirs
    assert sum(theirs) <= sum(hits(touched, 24, capacity, "belady")) <= sum(simulated("Belady", units, capacity + 1))
