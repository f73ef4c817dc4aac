"""The eviction policies, one file each, and nothing else; `dipc.cache.policy.POLICIES` finds them by name."""
