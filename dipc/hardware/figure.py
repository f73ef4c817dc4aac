"""A figure of a device: a value, and why anybody should believe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Kind = Literal["measured", "datasheet", "paper", "assumed"]


@dataclass(frozen=True)
class Figure(Generic[T]):
    """A value with the document it was taken from and what kind of evidence that is."""

    value: T
    source: str
    kind: Kind
