"""Masks for tests of caches, and what the torch reference makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st

from dipc.cache import Policy, get_policy, policy_names
from dipc.cache.state import CacheState, preload, update

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

ONLINE = [name for name in policy_names() if get_policy(name).online]
policies = st.sampled_from(policy_names()).map(get_policy)
online = st.sampled_from(ONLINE).map(get_policy)


@st.composite
def masks(draw: st.DrawFn, tokens: int = 24, units: int = 20) -> Bools:
    """Masks of at most so many tokens and units that differ in popularity, so that all tiers and ties occur."""
    shape = draw(st.integers(0, tokens)), draw(st.integers(1, units))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random(shape) < rng.random(shape[1]) ** draw(st.integers(0, 3))


def mask_of(touched: Sequence[Sequence[int]], units: int) -> Bools:
    """Masks [T, U] from the units that each token touches."""
    mask_TU = np.zeros((len(touched), units), dtype=np.bool_)
    for token, those in enumerate(touched):
        mask_TU[token, list(those)] = True
    return mask_TU


def popularity(mask_TU: Bools) -> Ints:
    """Some popularity of the units, with ties."""
    return np.arange(mask_TU.shape[1], dtype=np.int64) * 7 % 5


def first_state(mask_TU: Bools, capacity: int, policy: Policy) -> CacheState:
    """The state of the cache before the first of these tokens."""
    state = CacheState.empty(mask_TU.shape[1])
    if not policy.counts:
        state = dataclasses.replace(state, freq=torch.from_numpy(popularity(mask_TU)))
    return preload(state, capacity, policy)


def reference(mask_TU: Bools, capacity: int, policy: Policy) -> Bools:
    """The units that each token finds cached [T, U], as `state.update` has it."""
    state, found_TU = first_state(mask_TU, capacity, policy), np.zeros_like(mask_TU)
    for token, mask in enumerate(torch.from_numpy(mask_TU)):
        found_TU[token] = state.cached.numpy()
        state = update(state, mask, capacity, policy)
    return found_TU


def reference_hits(mask_TU: Bools, capacity: int, policy: Policy) -> list[int]:
    """The hits of each token, as `state.update` has it."""
    hits: list[int] = np.count_nonzero(mask_TU & reference(mask_TU, capacity, policy), axis=1).tolist()
    return hits
