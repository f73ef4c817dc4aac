"""Replay, native and in numpy, equals the torch reference bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipc import native
from dipc.cache import Policy, get_policy
from dipc.cache.replay import Replay, SiteReplay, full_hits, replay, replay_site
from dipc.errors import UsageError
from kit.cache_reference import ONLINE, Bools, mask_of, masks, online, policies, popularity, reference, reference_hits

PATHS = ("native", "numpy")


@contextmanager
def only(path: str) -> Iterator[None]:
    """Take one of the two paths, or skip where it is not there."""
    if path == "native" and native.library() is None:
        pytest.skip("the native library is not built")
    with mock.patch.dict(os.environ, {"DIPC_NATIVE": "1" if path == "native" else "0"}):
        yield


def site(mask_TU: Bools, *cases: tuple[Policy, int], missed: bool = True) -> list[SiteReplay]:
    packed_TB = np.packbits(mask_TU, axis=1)
    return replay_site(packed_TB, mask_TU.shape[1], cases, popularity=popularity(mask_TU), missed=missed)


@pytest.mark.smoke
@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=300, deadline=None)
@given(masks(), st.integers(-1, 22), online)
def test_replay_equals_the_reference(path: str, mask_TU: Bools, capacity: int, policy: Policy) -> None:
    with only(path):
        found = replay(mask_TU, capacity, policy, popularity(mask_TU))
    assert found.tolist() == reference_hits(mask_TU, capacity, policy) and found.dtype == np.int64


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(-1, 22), online, st.integers(1, 7))
def test_pieces_are_the_whole(path: str, mask_TU: Bools, capacity: int, policy: Policy, piece: int) -> None:
    with only(path):
        cache = Replay(mask_TU.shape[1], capacity, policy, popularity(mask_TU))
        found = [int(h) for start in range(0, len(mask_TU), piece) for h in cache.hits(mask_TU[start : start + piece])]
        assert found == replay(mask_TU, capacity, policy, popularity(mask_TU)).tolist()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("policy", ONLINE)
def test_replay_equals_the_reference_on_a_larger_site(path: str, policy: str) -> None:
    mask_TU = np.random.default_rng(0).random((300, 257)) < 0.4
    with only(path):
        found = site(mask_TU, (get_policy(policy), 101), (get_policy(policy), 257), (get_policy("lru"), 130))
    for replayed, name, capacity in zip(found, (policy, policy, "lru"), (101, 257, 130), strict=True):
        cached_TU = reference(mask_TU, capacity, get_policy(name))
        assert replayed.hits_T.tolist() == np.count_nonzero(mask_TU & cached_TU, axis=1).tolist()
        np.testing.assert_array_equal(replayed.missed_TB, np.packbits(mask_TU & ~cached_TU, axis=1))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(-1, 22), policies)
def test_hits_and_misses_are_the_accesses(path: str, mask_TU: Bools, capacity: int, policy: Policy) -> None:
    with only(path):
        (found,) = site(mask_TU, (policy, capacity))
        (hits_only,) = site(mask_TU, (policy, capacity), missed=False)
    assert found.missed_TB is not None and hits_only.missed_TB is None
    missed_TU = np.unpackbits(found.missed_TB, axis=1, count=mask_TU.shape[1]).astype(np.bool_)
    assert not (missed_TU & ~mask_TU).any() and found.missed_TB.shape == np.packbits(mask_TU, axis=1).shape
    assert (found.hits_T + missed_TU.sum(axis=1)).tolist() == mask_TU.sum(axis=1).tolist()
    assert hits_only.hits_T.tolist() == found.hits_T.tolist()


@settings(max_examples=100, deadline=None)
@given(masks(tokens=40), st.integers(-1, 22))
def test_an_oracle_is_the_same_on_both_paths(mask_TU: Bools, capacity: int) -> None:
    found = []
    for path in PATHS:
        with only(path):
            found += site(mask_TU, (get_policy("belady"), capacity))
    np.testing.assert_array_equal(found[0].hits_T, found[1].hits_T)
    np.testing.assert_array_equal(found[0].missed_TB, found[1].missed_TB)


@pytest.mark.smoke
def test_replay_by_hand() -> None:
    # Two units fit. Hits under LRU: {0,1} none; {1} one; {2} none, 0 goes; {0,2} one (2), 1 goes; {1} none.
    mask_TU = mask_of([[0, 1], [1], [2], [0, 2], [1]], units=3)
    (found,) = site(mask_TU, (get_policy("lru"), 2))
    assert found.hits_T.tolist() == [0, 1, 0, 1, 0] and found.hits_T.dtype == np.int64
    assert np.unpackbits(found.missed_TB, axis=1, count=3).tolist() == (  # type: ignore[arg-type]
        [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    )


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 14), policies)
def test_full_hits_are_those_of_a_full_mask_once_warm(tokens: int, units: int, capacity: int, policy: Policy) -> None:
    mask_TU = np.ones((tokens, units), dtype=np.bool_)
    hits_T = replay(mask_TU, capacity, policy, popularity(mask_TU))
    assert set(hits_T[1:].tolist()) == {full_hits(units, capacity, policy)}


def test_what_cannot_be_replayed_is_refused_in_one_line() -> None:
    packed_TB = np.zeros((3, 2), dtype=np.uint8)
    static = get_policy("static")
    with pytest.raises(UsageError, match=r"a trace of 17 units is uint8 \[T, 3\], not uint8 \[3, 2\]"):
        replay_site(packed_TB, 17, [])
    with pytest.raises(UsageError, match="static needs the popularity of each unit; give one from a calibration"):
        replay_site(packed_TB, 16, [(get_policy("lru"), 3), (static, 3)])
    with pytest.raises(UsageError, match=r"popularity is int64 \[4\]; int64 \[16\] was expected"):
        replay_site(packed_TB, 16, [(static, 3)], popularity=np.zeros(4, dtype=np.int64))
    with pytest.raises(UsageError, match="popularity lies outside"):
        replay_site(packed_TB, 16, [(static, 3)], popularity=np.full(16, 2**25))
    with pytest.raises(UsageError, match=r"belady needs the whole recorded trace at once.* choose lfu, .* or static"):
        Replay(16, 3, get_policy("belady"))
