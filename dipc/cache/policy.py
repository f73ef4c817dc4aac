"""An eviction policy: a priority for every unit, and the capacity it makes use of."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from dipc.errors import UsageError
from dipc.registry import ModuleRegistry, defined_here, name_of, register_kind

KEY_BITS = 50
"""A policy's key lies in [0, 2**KEY_BITS); the tier (0 to 3) stands above it in one int64."""


class KeyWeights(NamedTuple):
    """A key as a weighted sum: `freq` times the first plus `last_used + 1` times the second, in [0, 2**KEY_BITS)."""

    freq: int
    last_used: int


@dataclass(frozen=True)
class Policy:
    """A weight-cache eviction policy: which units stay when more are candidates than fit.

    A subclass is a frozen dataclass, alone in its file; its fields are its options, the file's name is its registry
    name, and the first line of its docstring is what a listing prints. It gives `key_weights` or a `key`; README.md
    beside this file states the rule that the flags change.
    """

    name: ClassVar[str]
    protects_current_token: ClassVar[bool] = True
    """The present token's units come before all others, those that were cached first; else keys alone decide."""
    counts: ClassVar[bool] = True
    """`freq` counts tokens from 0; else it is a popularity given beforehand, and the C most popular start cached."""
    drops_count_on_evict: ClassVar[bool] = False
    """A unit that is not cached loses its count."""
    online: ClassVar[bool] = True
    """It needs to know the past only; else the key is given next uses, and there is no closed loop."""
    key_weights: ClassVar[KeyWeights | None] = None
    """The parts of `key`, where it is a weighted sum; without them an ONNX file cannot hold the policy. A subclass
    with a `key` of its own has none but those that it states."""
    native_number: ClassVar[int | None] = None
    """The policy's number in the C interface (`dipc_native.h`), where it has kernels; a subclass inherits none."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = name_of(cls)
        cls.native_number = vars(cls).get("native_number")
        if "key" in vars(cls):
            cls.key_weights = vars(cls).get("key_weights")

    def key(self, freq: Any, last_used: Any) -> Any:
        """Priority of each unit; the greatest stay, the lower index first on ties. By default that of `key_weights`.

        Must work element by element with plain arithmetic: it is given torch tensors, numpy arrays, whole sites and
        subsets of them.

        Args:
            freq: int64, tokens that touched the unit so far, the present one included; its popularity where the policy
                does not count.
            last_used: int64 of the same shape, the last token that touched it, counted from 0; -1 for never. Where the
                policy is not online, the next token that touches it instead; `next_use.NEVER` for none.

        Returns:
            int64 of the same shape, in [0, 2**50).
        """
        if self.key_weights is None:
            raise NotImplementedError(f"the policy {self.name} has neither key_weights nor a key; give it either")
        by_count, by_time = self.key_weights
        return freq * by_count + (last_used + 1) * by_time

    def capacity(self, requested: int) -> int:
        """Units this policy keeps when `requested` units of space are given."""
        return requested

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def clamp_capacity(policy: Policy, requested: int, units: int) -> int:
    """Units cached at a site of `units` units under `policy`: its capacity, within [0, units]."""
    return min(max(policy.capacity(requested), 0), units)


def check_online(policy: Policy) -> None:
    """UsageError where the policy must know what is touched next, which nothing tells while tokens are made."""
    if not policy.online:
        online = [name for name in policy_names() if POLICIES.get(name).online]
        raise UsageError(
            f"the policy {policy.name} needs the whole recorded trace at once, and decides nothing token by token; "
            f"choose {', '.join(online[:-1])} or {online[-1]}"
        )


def _find(module: ModuleType) -> type[Policy] | None:
    return defined_here(module, Policy)


POLICIES = register_kind(ModuleRegistry("cache policy", "dipc.cache.policies", _find))
"""Eviction policies by name: the files of `policies/`, and what plug-ins add."""


def get_policy(name: str) -> Policy:
    """The policy called `name`, with its default options. Raises UnknownName."""
    return POLICIES.get(name)()


def policy_names() -> list[str]:
    """Names of all policies, sorted."""
    return POLICIES.names()


def register(name: str, cls: type[Policy]) -> None:
    """Make a policy that stands in no plug-in file known as `name`. Raises UsageError if the name is taken."""
    POLICIES.add(name, cls, f"{cls.__module__}.{cls.__qualname__}")
    cls.name = name
