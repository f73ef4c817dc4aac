"""The weight cache: its policies, the update rule (`state`) and its fast replay (`replay`)."""

from __future__ import annotations

from dipc.cache.policy import KeyWeights, Policy, clamp_capacity, get_policy, policy_names, register

__all__ = ["KeyWeights", "Policy", "clamp_capacity", "get_policy", "policy_names", "register"]
