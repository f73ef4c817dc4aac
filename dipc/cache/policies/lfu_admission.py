"""Least frequently used, where a newcomer must be worth it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipc.cache.policies.lfu import Lfu


@dataclass(frozen=True)
class LfuAdmission(Lfu):
    """Admit a unit only in place of one that fewer tokens touched, or as many but longer ago; counts survive eviction.

    A cold unit is read past the cache and displaces no warm one: the idea of TinyLFU (Einziger et al., ACM Transactions
    on Storage 13(4), 2017), here with exact counts.
    """

    protects_current_token: ClassVar[bool] = False
    native_number = 4
