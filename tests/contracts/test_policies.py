"""The contract of every cache policy, whoever wrote it."""

from __future__ import annotations

import pytest
import torch

from dipc.cache import get_policy, policy_names
from dipc.cache.policy import POLICIES
from kit.registered import file_name, summary


@pytest.mark.parametrize("name", policy_names())
def test_policy_is_documented_and_named_after_its_file(name: str) -> None:
    kind = POLICIES.get(name)
    assert summary(kind).endswith(".")
    assert file_name(kind) == name == get_policy(name).name


@pytest.mark.smoke
@pytest.mark.parametrize("name", policy_names())
def test_policy_key_is_an_integer_in_range_and_the_same_each_time(name: str) -> None:
    """Over counts and times that a run can reach, in torch and in numpy (whole sites and subsets: tests/cache)."""
    generator = torch.Generator().manual_seed(0)
    last_used = torch.randint(-1, 2**24, (1000,), generator=generator)
    freq = (torch.rand(1000, generator=generator) * (last_used + 1)).long()
    policy = get_policy(name)
    key = policy.key(freq, last_used)
    assert key.dtype == torch.int64 and bool((key >= 0).all()) and bool((key < 2**50).all())
    assert torch.equal(key, policy.key(freq, last_used))
    assert (policy.key(freq.numpy(), last_used.numpy()) == key.numpy()).all()
