"""The KV cache that a session keeps between two calls: all positions, or those that a sliding window still reaches.

A call needs the W - 1 positions before it of a layer whose window is W. A session keeps as many more as the last call
had tokens, at most W - 1, so that these can be taken back; after calls of one token it has W positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Past:
    """How a carried value grows: along `axis`, None if it does not, and how far its layer looks back."""

    axis: int | None
    window: int | None = None

    def fed(self, value: Tensor) -> Tensor:
        """The part of a kept value that a call needs."""
        return value if self.window is None else _last(value, self.axis, self.window - 1)

    def kept(self, value: Tensor, count: int) -> Tensor:
        """The part of a new value that is kept after a call of `count` tokens."""
        if self.window is None:
            return value
        last = _last(value, self.axis, self.window - 1 + min(count, self.window - 1))
        # A part holds on to the memory of the whole.
        return last.clone() if 2 * last.numel() < value.numel() else last

    def rewound(self, value: Tensor, seen: int, position: int) -> Tensor | None:
        """The value as it was after `position` of `seen` tokens, or as much as calls need of it; None if it is gone."""
        if self.axis is None:
            return None
        length = value.shape[self.axis] - (seen - position)
        needed = position if self.window is None else min(position, self.window - 1)
        return value.narrow(self.axis, 0, length) if length >= needed else None


def _last(value: Tensor, axis: int | None, count: int) -> Tensor:
    length = 0 if axis is None else value.shape[axis]
    return value if axis is None or length <= count else value.narrow(axis, length - count, count)


def rewound(
    values: Mapping[str, Tensor], pasts: Mapping[str, Past], seen: int, position: int
) -> dict[str, Tensor] | None:
    """Carried values as they were after `position` of `seen` tokens; None if one of them does not say what it was."""
    earlier = {}
    for name, value in values.items():
        found = pasts[name].rewound(value, seen, position)
        if found is None:
            return None
        earlier[name] = found
    return earlier
