"""Replay, native and in numpy, equals the torch reference bit for bit, and caches behave as caches must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dipc import native
from dipc.cache import Policy, get_policy, policy_names
from dipc.cache.replay import Replay, full_hits, replay
from dipc.cache.state import CacheState, update

Bools = npt.NDArray[np.bool_]
policies = st.sampled_from(policy_names()).map(get_policy)


PATHS = ("native", "numpy")


@contextmanager
def only(path: str) -> Iterator[None]:
    """Take one of the two paths, or skip where it is not there."""
    if path == "native" and native.library() is None:
        pytest.skip("the native library is not built")
    with mock.patch.object(native, "POLICIES", native.POLICIES if path == "native" else {}):
        yield


@st.composite
def masks(draw: st.DrawFn) -> Bools:
    """Masks whose units differ in popularity, so that all tiers and ties occur."""
    tokens, units = draw(st.integers(0, 24)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random((tokens, units)) < rng.random(units) ** draw(st.integers(0, 3))


def reference(mask_TU: Bools, capacity: int, policy: Policy) -> list[int]:
    state, hits = CacheState.empty(mask_TU.shape[1]), []
    for mask in torch.from_numpy(mask_TU):
        hits.append(int((mask & state.cached).sum()))
        state = update(state, mask, capacity, policy)
    return hits


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=300, deadline=None)
@given(masks(), st.integers(-1, 22), policies)
def test_replay_equals_the_reference(path: str, mask_TU: Bools, capacity: int, policy: Policy) -> None:
    with only(path):
        assert replay(mask_TU, capacity, policy).tolist() == reference(mask_TU, capacity, policy)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(-1, 22), policies, st.integers(1, 7))
def test_pieces_are_the_whole(path: str, mask_TU: Bools, capacity: int, policy: Policy, piece: int) -> None:
    with only(path):
        cache = Replay(mask_TU.shape[1], capacity, policy)
        found = [int(h) for start in range(0, len(mask_TU), piece) for h in cache.hits(mask_TU[start : start + piece])]
        assert found == replay(mask_TU, capacity, policy).tolist()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("policy", policy_names())
def test_replay_equals_the_reference_on_a_larger_site(path: str, policy: str) -> None:
    mask_TU = np.random.default_rng(0).random((60, 257)) < 0.4
    with only(path):
        assert replay(mask_TU, 101, get_policy(policy)).tolist() == reference(mask_TU, 101, get_policy(policy))


def test_replay_by_hand() -> None:
    # Two units fit. Hits under LRU: {0,1} none; {1} one; {2} none, 0 goes; {0,2} one (2), 1 goes; {1} none.
    touched = [[0, 1], [1], [2], [0, 2], [1]]
    mask_TU = np.zeros((5, 3), dtype=np.bool_)
    for token, units in enumerate(touched):
        mask_TU[token, units] = True
    hits_T = replay(mask_TU, 2, get_policy("lru"))
    assert hits_T.tolist() == [0, 1, 0, 1, 0] and hits_T.dtype == np.int64


@given(masks(), st.integers(0, 20), policies)
def test_hits_are_accesses_that_were_made_before(mask_TU: Bools, capacity: int, policy: Policy) -> None:
    hits_T = replay(mask_TU, capacity, policy)
    assert np.all(hits_T >= 0) and np.all(hits_T <= np.minimum(mask_TU.sum(axis=1), capacity))
    assert len(hits_T) == len(mask_TU) and not hits_T[:1].any()


@given(masks(), policies.filter(lambda policy: policy.name != "none"))
def test_a_cache_for_all_units_misses_first_touches_only(mask_TU: Bools, policy: Policy) -> None:
    misses = int(mask_TU.sum()) - int(replay(mask_TU, mask_TU.shape[1], policy).sum())
    assert misses == np.count_nonzero(mask_TU.any(axis=0))


@given(masks(), st.integers(0, 20))
def test_more_capacity_never_hurts_lru(mask_TU: Bools, capacity: int) -> None:
    lru = get_policy("lru")
    assert np.all(replay(mask_TU, capacity + 1, lru) >= replay(mask_TU, capacity, lru))


@given(masks(), st.integers(0, 20))
def test_none_never_hits(mask_TU: Bools, capacity: int) -> None:
    assert not replay(mask_TU, capacity, get_policy("none")).any()


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 14), policies)
def test_full_hits_are_those_of_a_full_mask_once_warm(tokens: int, units: int, capacity: int, policy: Policy) -> None:
    hits_T = replay(np.ones((tokens, units), dtype=np.bool_), capacity, policy)
    assert set(hits_T[1:].tolist()) == {full_hits(units, capacity, policy)}
