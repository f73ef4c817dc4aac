"""How fast flash reads: bandwidth over chunk size, apart for random and sequential reads and by queue depth.

Between two points bandwidth is linear in the logarithm of the chunk size, and so it is between two queue depths;
outside the points it is that of the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dipc.hardware.figure import Figure

Access = Literal["random", "sequential"]


@dataclass(frozen=True)
class FlashPoint:
    """Flash read bandwidth in bytes per second when it is read in chunks of `chunk_bytes`."""

    chunk_bytes: int
    bandwidth: Figure[float]
    access: Access | None = None
    """Reads at scattered addresses or one after another; None: either."""
    queue_depth: int | None = None
    """Reads under way at once; None: any number."""


@dataclass(frozen=True)
class Flash:
    """Flash: read bandwidth over chunk size; a plain bandwidth is a curve of one point.

    Either all points name their access or none does, and of one access all name a queue depth or none does. Chunks
    rise strictly among the points of one access and queue depth.
    """

    curve: tuple[FlashPoint, ...]
    page: Figure[int] | None = None
    """Bytes that are read together at least, from an address that is a multiple of them; None: any byte alone."""

    def points(self, access: Access) -> tuple[FlashPoint, ...]:
        """The points for that access; those for the other where there are none."""
        return tuple(p for p in self.curve if p.access in (None, access)) or self.curve

    def queue_depths(self, access: Access = "random") -> tuple[int, ...]:
        """Queue depths with figures of their own, rising; empty where the file names none."""
        return tuple(sorted({p.queue_depth for p in self.points(access) if p.queue_depth is not None}))

    def bandwidth(self, chunk_bytes: float, access: Access = "random", queue_depth: int | None = None) -> float:
        """Read bandwidth in bytes per second.

        Args:
            chunk_bytes: bytes of one read.
            access: at scattered addresses, or one after another.
            queue_depth: reads under way at once; by default the greatest that the file has figures for.

        Raises:
            ValueError: `chunk_bytes` is not positive.
        """
        if not chunk_bytes > 0:
            raise ValueError(f"a chunk of {chunk_bytes} bytes")
        points, depths = self.points(access), self.queue_depths(access)
        if not depths:
            return _between([(p.chunk_bytes, p.bandwidth.value) for p in points], chunk_bytes)
        by_depth = []
        for depth in depths:
            curve = [(p.chunk_bytes, p.bandwidth.value) for p in points if p.queue_depth == depth]
            by_depth.append((depth, _between(curve, chunk_bytes)))
        return _between(by_depth, depths[-1] if queue_depth is None else queue_depth)


def _between(points: Sequence[tuple[int, float]], x: float) -> float:
    """The value at `x`, linear in its logarithm between points of rising x, flat beyond them."""
    below: tuple[int, float] | None = None
    for above in points:
        if x <= above[0]:
            if below is None:
                return above[1]
            share = math.log(x / below[0]) / math.log(above[0] / below[0])
            return below[1] + share * (above[1] - below[1])
        below = above
    return points[-1][1]
