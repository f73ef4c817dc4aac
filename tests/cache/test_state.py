"""Cache policies and the torch reference of the update, on cases worked by hand."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import dipc.cache.policy as policy_module
from dipc.cache import Policy, clamp_capacity, get_policy, policy_names, register
from dipc.cache.policies.lru import Lru
from dipc.cache.state import CacheState, update
from dipc.errors import UnknownName, UsageError


def run(masks: list[list[int]], units: int, capacity: int, policy: str) -> list[list[int]]:
    """Cached units after each token; masks are lists of unit indices."""
    state = CacheState.empty(units)
    cached = []
    for touched in masks:
        mask = torch.zeros(units, dtype=torch.bool)
        mask[touched] = True
        state = update(state, mask, capacity, get_policy(policy))
        cached.append(state.cached.nonzero().flatten().tolist())
    return cached


def test_lru_evicts_what_was_not_touched_for_longest() -> None:
    # After {0}, {1}, {2} unit 0 (last used at t=0) goes; then 1 is touched again, so 3 displaces 2.
    assert run([[0], [1], [2], [1], [3]], units=4, capacity=2, policy="lru") == [[0], [0, 1], [1, 2], [1, 2], [1, 3]]


def test_lfu_evicts_the_lowest_count_and_counts_survive_eviction() -> None:
    # Counts after five tokens: unit 0: 3, unit 1: 1, unit 2: 1. 2 comes in (tier 2) and 1 goes (1 < 3).
    # Then 1 returns with count 2 and displaces 2 (count 1). Then 3 (count 1) displaces 1 (2 < 3).
    masks = [[0], [0], [0], [1], [2], [1], [3]]
    expected = [[0], [0], [0], [0, 1], [0, 2], [0, 1], [0, 3]]
    assert run(masks, units=4, capacity=2, policy="lfu") == expected


def test_lfu_breaks_equal_counts_by_recency() -> None:
    # 0 and 1 both have count 1; 0 is older and goes.
    assert run([[0], [1], [2]], units=3, capacity=2, policy="lfu")[-1] == [1, 2]


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_equal_keys_keep_the_lower_index(policy: str) -> None:
    assert run([[3, 1, 0]], units=4, capacity=2, policy=policy) == [[0, 1]]


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_hits_stay_before_new_units_whatever_the_key(policy: str) -> None:
    # Unit 0 of the second token has the lower index, but 2 and 3 are hits.
    assert run([[2, 3], [0, 2, 3]], units=4, capacity=2, policy=policy) == [[2, 3], [2, 3]]


def test_none_keeps_nothing() -> None:
    assert run([[0, 1], [0, 1]], units=2, capacity=2, policy="none") == [[], []]


def test_update_leaves_its_input_alone_and_counts() -> None:
    before = CacheState.empty(3)
    after = update(before, torch.tensor([True, False, True]), 1, get_policy("lru"))
    assert not before.cached.any() and before.freq.tolist() == [0, 0, 0]
    assert before.last_used.tolist() == [-1, -1, -1] and before.t == 0
    assert after.freq.tolist() == [1, 0, 1] and after.last_used.tolist() == [0, -1, 0] and after.t == 1
    assert {value.dtype for value in (after.freq, after.last_used, after.t)} == {torch.int64}


def test_capacity_is_clamped_to_the_site() -> None:
    assert [clamp_capacity(get_policy("lru"), c, 4) for c in (-1, 0, 3, 9)] == [0, 0, 3, 4]
    assert clamp_capacity(get_policy("none"), 3, 4) == 0


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_keeps_the_contract(name: str) -> None:
    policy = get_policy(name)
    assert policy.name == name
    assert vars(type(policy))["__dataclass_params__"].frozen
    assert policy.summary().endswith(".") and not policy.summary().startswith(type(policy).__name__ + "(")
    freq, last_used = np.array([0, 1, 5, 2**24]), np.array([-1, 0, 7, 2**25 - 2])
    key = policy.key(freq, last_used)
    assert key.dtype == np.int64 and key.shape == freq.shape
    assert key.min() >= 0 and key.max() < 2**policy_module.KEY_BITS
    assert policy.key(torch.from_numpy(freq), torch.from_numpy(last_used)).tolist() == key.tolist()
    assert policy.key(freq[2:], last_used[2:]).tolist() == key[2:].tolist()


def test_a_name_that_is_not_known_gets_a_guess() -> None:
    with pytest.raises(UnknownName, match="no cache policy named 'lfo'; did you mean 'lfu'"):
        get_policy("lfo")
    for helper in ("state", "replay", "policy"):
        with pytest.raises(UnknownName):
            get_policy(helper)


def test_a_plug_in_registers_once_and_takes_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Oldest(Lru):
        """Evict the unit touched last."""

        def key(self, freq: object, last_used: object) -> object:
            return 2**40 - last_used  # type: ignore[operator]

    monkeypatch.setattr(policy_module.POLICIES, "added", {})
    register("mru", Oldest)
    assert "mru" in policy_names() and isinstance(get_policy("mru"), Oldest) and get_policy("mru").name == "mru"
    with pytest.raises(UsageError, match="lru"):
        register("lru", Oldest)


def test_a_plug_in_file_gives_its_one_policy() -> None:
    module = ModuleType("elsewhere")
    exec(inspect.getsource(sys.modules["dipc.cache.policies.lru"]), vars(module))
    found = policy_module.POLICIES.find(module)
    assert found is not None and issubclass(found, Policy)


def test_importing_policies_does_not_import_torch() -> None:
    modules = "dipc.cache, dipc.cache.replay, dipc.memory.trace, dipc.memory.pricing"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)
