"""The native kernels against a plain reading of the cache's rule (dipc/native/README.md)."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dipc import native
from dipc.cache.policy import POLICIES, get_policy
from dipc.errors import MissingDependency
from dipc.native import loader
from dipc.ops import select_topk

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

SCANNED = [name for name in POLICIES.builtin() if get_policy(name).online]


@dataclass
class State:
    """One site's cache state, as the README names it."""

    cached: Bools
    freq: NDArray[np.int64]
    last_used: NDArray[np.int64]
    t: NDArray[np.int64]

    @staticmethod
    def empty(units: int) -> State:
        return State(np.zeros(units, bool), np.zeros(units, np.int64), np.full(units, -1), np.zeros(1, np.int64))

    def update(self, mask: Bools, capacity: int, policy: str) -> int:
        """Apply one token's mask with ordinary sorting; return its hits."""
        units = len(mask)
        capacity = 0 if policy == "none" else min(max(capacity, 0), units)
        hits = int((mask & self.cached).sum())
        self.freq += mask if policy != "static" else 0
        self.last_used[mask] = self.t[0]

        def key(i: int) -> tuple[int, int]:
            frequency = int(self.freq[i]) * 2**25 if policy != "lru" else 0
            time = int(self.last_used[i]) + 1 if policy != "static" else 0
            tier = 2 * int(mask[i]) + int(self.cached[i]) if policy not in ("lfu-admission", "static") else 0
            return tier * 2**50 + frequency + time, -i

        candidates = sorted((i for i in range(units) if mask[i] or self.cached[i]), key=key, reverse=True)
        self.cached[:] = False
        self.cached[candidates[:capacity]] = True
        if policy == "lfu-in-cache":
            self.freq[~self.cached] = 0
        self.t += 1
        return hits


def reference(
    score: Floats, state: State, k: int, capacity: int, gamma: float, policy: str, dense: Bools | None
) -> Bools:
    """Select token by token with a full stable sort; updates `state`."""
    masks = np.zeros(score.shape, bool)
    for token, row in enumerate(score):
        if dense is not None and dense[token]:
            masks[token] = True
            continue
        weighed = np.where(state.cached, row, row * np.float32(gamma))
        rank = np.where(np.isnan(weighed), np.inf, weighed)
        order = sorted(range(len(row)), key=lambda i: (-rank[i], i))
        masks[token, order[:k]] = True
        state.update(masks[token], capacity, policy)
    return masks


def select(state: State, score: Floats, **options: Any) -> Bools:
    """The native scan; moves `state` on."""
    before = copy.deepcopy(state)
    given = native.State(state.cached, state.freq, state.last_used, state.t)
    number = get_policy(options["policy"]).native_number
    mask, after = native.select_cache_aware(score, given, **{**options, "policy": number})
    assert_same(state, before)  # the arguments are left alone
    state.cached, state.freq, state.last_used, state.t = after
    return mask


def assert_same(left: State, right: State) -> None:
    for name, value in vars(left).items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)


@st.composite
def scans(draw: st.DrawFn) -> dict[str, Any]:
    tokens, units = draw(st.integers(0, 9)), draw(st.integers(1, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    score = np.abs(random.standard_normal((tokens, units), np.float32))
    if draw(st.booleans()):  # few levels, so that nearly everything ties
        score = np.round(score)
    if draw(st.booleans()):
        odd = np.array([np.nan, np.inf, 0.0, -0.0, 1e-45, 3.4e38], np.float32)
        score = np.where(random.random(score.shape) < 0.2, random.choice(odd, score.shape), score)
    return {
        "score": score,
        "k": draw(st.sampled_from([0, 1, units // 2, units - 1, units])),
        "capacity": draw(st.sampled_from([-1, 0, 1, units // 3, units // 2, units - 1, units, units + 5])),
        "gamma": draw(st.sampled_from([0.0, 0.2, 1.0])),
        "policy": draw(st.sampled_from(SCANNED)),
        "dense": draw(st.sampled_from([None, random.random(tokens) < 0.3])),
    }


@needs_library
@settings(max_examples=300, deadline=None)
@given(scans())
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf * 0 is meant
def test_selection_equals_the_reference(scan: dict[str, Any]) -> None:
    units = scan["score"].shape[1]
    expected_state, state = State.empty(units), State.empty(units)
    expected = reference(state=expected_state, **scan)
    np.testing.assert_array_equal(select(state=state, **scan), expected)
    assert_same(state, expected_state)


@needs_library
@settings(max_examples=100, deadline=None)
@given(scans())
def test_one_call_equals_one_call_per_token(scan: dict[str, Any]) -> None:
    score, dense = scan.pop("score"), scan.pop("dense")
    whole, stepped = State.empty(score.shape[1]), State.empty(score.shape[1])
    masks = select(whole, score, dense=dense, **scan)
    for i in range(len(score)):
        step_dense = None if dense is None else dense[i : i + 1]
        mask = select(stepped, score[i : i + 1], dense=step_dense, **scan)
        np.testing.assert_array_equal(mask[0], masks[i])
    assert_same(whole, stepped)


@needs_library
@pytest.mark.parametrize("policy", SCANNED)
def test_large_site_with_continuous_scores(policy: str) -> None:
    random = np.random.default_rng(0)
    score = np.abs(random.standard_normal((12, 3001), np.float32))
    arguments: dict[str, Any] = {"k": 1500, "capacity": 1700, "gamma": 0.2, "policy": policy, "dense": None}
    expected_state, state = State.empty(3001), State.empty(3001)
    np.testing.assert_array_equal(select(state, score, **arguments), reference(score, expected_state, **arguments))
    assert_same(state, expected_state)


@pytest.mark.smoke
@needs_library
def test_by_hand() -> None:
    """U=4, k=2, C=2, gamma=0.5, lru: the second token keeps unit 1 (3 > 4 * 0.5) and swaps unit 0 for unit 3."""
    state = State.empty(4)
    score = np.array([[8, 4, 1, 2], [1, 3, 4, 7]], np.float32)
    mask = select(state, score, k=2, capacity=2, gamma=0.5, policy="lru", dense=None)
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(state.cached, [0, 1, 0, 1])
    np.testing.assert_array_equal(state.freq, [1, 2, 0, 1])
    np.testing.assert_array_equal(state.last_used, [0, 1, -1, 1])


@needs_library
def test_bad_arguments() -> None:
    state, score = State.empty(4), np.ones((1, 4), np.float32)
    good: dict[str, Any] = {"k": 2, "capacity": 2, "gamma": 0.5, "policy": "lru", "dense": None}
    with pytest.raises(ValueError, match="k is 5"):
        select(state, score, **{**good, "k": 5})
    with pytest.raises(ValueError, match="refused"):
        select(state, score, **{**good, "policy": "belady"})
    with pytest.raises(ValueError, match="expected float32"):
        select(state, score.astype(np.float64), **good)
    with pytest.raises(ValueError, match="expected bool"):
        select(state, score, **{**good, "dense": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="freq"):
        select(State(state.cached, np.zeros(3, np.int64), state.last_used, state.t), score, **good)


@needs_library
def test_what_the_scan_covers() -> None:
    assert native.covers_scores("torch.float32", "cpu")
    assert not native.covers_scores("torch.bfloat16", "cpu")
    assert not native.covers_scores("torch.float32", "cuda")
    assert "belady" not in SCANNED


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPC_NATIVE", "0")
    assert native.library() is None
    assert "DIPC_NATIVE=0" in native.describe()
    with pytest.raises(MissingDependency, match="DIPC_NATIVE=0"):
        native.select_topk(np.ones((1, 2), np.float32), 1)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "libdipc_native.so"
    broken.write_bytes(b"not a library")
    opened, reason = loader._open(broken)
    assert opened is None
    assert "reinstall" in reason


@needs_library
def test_another_abi_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = loader._find()
    assert found is not None
    copied = shutil.copy(found, tmp_path)
    monkeypatch.setattr(loader, "ABI_VERSION", native.ABI_VERSION + 1)
    opened, reason = loader._open(Path(copied))
    assert opened is None
    assert f"ABI version {native.ABI_VERSION}" in reason


def test_a_selection_of_many_tokens_has_the_same_bits_as_of_few() -> None:
    score = np.random.default_rng(0).integers(50, size=(4100, 1024)).astype(np.float32)
    native.set_threads(3)
    together = native.select_topk(score, 400)  # shared out over the library's threads, which fewer scores are not
    apart = np.concatenate([native.select_topk(rows, 400) for rows in np.array_split(score, 5)])
    assert (together == apart).all() and (together.sum(-1) == 400).all()


def test_selecting_takes_no_more_threads_than_torch_has() -> None:
    library = native.library()
    assert library is not None
    native.set_threads(torch.get_num_threads() + 1)
    select_topk.kernel(torch.ones(2, 8), 3)
    assert library.dipc_threads() == torch.get_num_threads()
