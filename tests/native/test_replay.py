"""The native replay beside the torch reference, on every instruction set and in several caches at once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dipc import native
from dipc.cache import Policy, get_policy, policy_names
from dipc.cache.policy import POLICIES
from dipc.cache.replay import replay_site
from kit.cache_reference import Bools, masks, online, popularity, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")

# Sites of several words and odd sizes, masks larger than caches, and long enough that cuts move.
AGREES = """
import os, sys
import numpy as np
from dipc import native
from dipc.cache import get_policy, policy_names
from dipc.cache.replay import replay_site
assert native.instruction_set() == sys.argv[1]
random = np.random.default_rng(0)
for units, density in ((257, 0.2), (640, 0.5), (130, 0.9), (64, 0.4)):
    mask_TU = random.random((90, units)) < np.clip(2 * density * random.random(units), 0, 1)
    packed_TB, uses = np.packbits(mask_TU, axis=1), random.integers(0, 9, units)
    known = [get_policy(n) for n in policy_names() if get_policy(n).native_number is not None]
    cases = [(policy, c) for policy in known for c in (1, units // 3, units // 2, units)]
    os.environ["DIPC_NATIVE"] = "1"
    fast = replay_site(packed_TB, units, cases, popularity=uses, missed=True)
    os.environ["DIPC_NATIVE"] = "0"
    slow = replay_site(packed_TB, units, cases, popularity=uses, missed=True)
    for case, one, other in zip(cases, fast, slow):
        assert (one.hits_T == other.hits_T).all() and (one.missed_TB == other.missed_TB).all(), (units, case)
"""


NUMBERS = {n: number for n in policy_names() if (number := get_policy(n).native_number) is not None}


def run_native(
    name: str, packed_TB: NDArray[np.uint8], units: int, capacity: int, uses: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8] | None]:
    """Hits and misses of one cache, by the kernel that the policy takes."""
    cases = [(NUMBERS[name], capacity)]
    if not get_policy(name).online:
        return native.replay_ahead(packed_TB, units, cases, missed=True)
    return native.SiteCaches(units, cases, uses).run(packed_TB, missed=True)


def test_every_built_in_policy_has_a_kernel() -> None:
    assert len(NUMBERS) == len(POLICIES.builtin()) and set(POLICIES.builtin()) <= set(NUMBERS)
    assert len(set(NUMBERS.values())) == len(NUMBERS)


@settings(max_examples=150, deadline=None)
@given(masks(30, 150), st.lists(st.tuples(online, st.integers(-1, 152)), max_size=6), st.integers(1, 9))
def test_caches_side_by_side_and_in_pieces_equal_the_reference(
    mask_TU: Bools, cases: list[tuple[Policy, int]], piece: int
) -> None:
    packed_TB = np.packbits(mask_TU, axis=1)
    caches = native.SiteCaches(mask_TU.shape[1], [(NUMBERS[p.name], c) for p, c in cases], popularity(mask_TU))
    pieces = [caches.run(packed_TB[at : at + piece], missed=True) for at in range(0, len(mask_TU) + 1, piece)]
    for number, (policy, capacity) in enumerate(cases):
        cached_TU = reference(mask_TU, capacity, policy)
        hits = [int(hit) for hits_CN, _ in pieces for hit in hits_CN[number]]
        assert hits == np.count_nonzero(mask_TU & cached_TU, axis=1).tolist()
        missed_TB = np.concatenate([missed_CNB[number] for _, missed_CNB in pieces if missed_CNB is not None])
        np.testing.assert_array_equal(missed_TB, np.packbits(mask_TU & ~cached_TU, axis=1))


@pytest.mark.parametrize("instructions", ["avx512-vnni", "avx2", "portable"])
def test_every_instruction_set_agrees_with_numpy(instructions: str) -> None:
    environment = {**os.environ, "DIPC_ISA": instructions}
    command = [sys.executable, "-c", AGREES, instructions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "native.instruction_set() == sys.argv[1]" in done.stderr:
        pytest.skip(f"this processor has no {instructions}")
    assert done.returncode == 0, done.stderr[-2000:]


def test_belady_by_hand() -> None:
    # Two units fit. After {0,1} both stay; {2} is used again later than they are, so it is read past the cache; {1} and
    # {0} hit; at {2} nothing is used again and the lower indices stay.
    mask_TU = np.zeros((5, 3), np.bool_)
    for token, unit in ((0, 0), (0, 1), (1, 2), (2, 1), (3, 0), (4, 2)):
        mask_TU[token, unit] = True
    (found,) = replay_site(np.packbits(mask_TU, axis=1), 3, [(get_policy("belady"), 2)])
    assert found.hits_T.tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("policy", NUMBERS)
def test_threads_do_not_disturb_each_other(policy: str) -> None:
    random = np.random.default_rng(0)
    packed_TB, uses = random.integers(0, 256, (40, 5), dtype=np.uint8), random.integers(0, 9, 40)

    def hits(capacity: int) -> list[int]:
        return [int(hit) for hit in run_native(policy, packed_TB, 40, capacity, uses)[0][0]]

    capacities = list(range(1, 40))
    alone = [hits(capacity) for capacity in capacities]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hits, capacities * 20)) == alone * 20


def test_what_the_kernel_is_not_given() -> None:
    with pytest.raises(ValueError, match="refused"):
        native.SiteCaches(8, [(NUMBERS["belady"], 3)])
    with pytest.raises(ValueError, match="refused"):
        native.replay_ahead(np.zeros((2, 1), np.uint8), 8, [(NUMBERS["lru"], 3)])
    with pytest.raises(ValueError, match="refused"):
        native.SiteCaches(8, [(NUMBERS["static"], 3)])
    with pytest.raises(ValueError, match="popularity is float64"):
        native.SiteCaches(8, [(NUMBERS["static"], 3)], np.zeros(8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"packed_TB is uint8\[2, 2\]; expected uint8\[2, 1\]"):
        native.SiteCaches(8, [(NUMBERS["lru"], 3)]).run(np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="packed_TB is int64"):
        native.replay_ahead(np.zeros((2, 1), np.int64), 8, [(NUMBERS["belady"], 3)])


def test_no_cases_and_no_tokens() -> None:
    assert native.SiteCaches(9, []).run(np.zeros((4, 2), np.uint8))[0].shape == (0, 4)
    for name in NUMBERS:
        hits, missed = run_native(name, np.zeros((0, 2), np.uint8), 9, 3, np.zeros(9, np.int64))
        assert hits.shape == (1, 0) and missed is not None and missed.shape == (1, 0, 2)
