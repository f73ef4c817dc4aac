"""When each unit is touched next, over a whole trace and in bounded memory.

Shapes: T tokens, U units of a site, B = ceil(U / 8) bytes, N tokens of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]

NEVER = 2**31 - 1
"""The next use of a unit that no later token touches."""


def next_uses(packed_TB: npt.NDArray[np.uint8], units: int) -> Iterator[tuple[Bools, npt.NDArray[np.int32]]]:
    """Block by block from the first token on, the masks and the next token that touches each unit after each of them.

    Going back through the trace once, it keeps what lies ahead of each block's end, and finds the rest anew when the
    block's turn comes: with sqrt(T) blocks that takes memory for sqrt(T) tokens, not for T.

    Args:
        packed_TB: uint8 [T, B], the touched units as a trace packs them; T below `NEVER`.
        units: U.

    Yields:
        bool [N, U] and int32 [N, U]; the latter is `NEVER` where there is no such token.
    """
    tokens = len(packed_TB)
    size = max(1, math.isqrt(tokens))
    starts = range(0, tokens, size)
    ahead_U = np.full(units, NEVER, dtype=np.int32)
    ahead_of_blocks = []
    for start in reversed(starts):
        ahead_of_blocks.append(ahead_U.copy())
        mask_NU = _unpacked(packed_TB[start : start + size], units)
        touched_U = mask_NU.any(axis=0)
        ahead_U[touched_U] = start + mask_NU.argmax(axis=0)[touched_U]
    for start in starts:
        ahead_U = ahead_of_blocks.pop()
        mask_NU = _unpacked(packed_TB[start : start + size], units)
        next_NU = np.empty(mask_NU.shape, dtype=np.int32)
        for row in reversed(range(len(mask_NU))):
            next_NU[row] = ahead_U
            ahead_U[mask_NU[row]] = start + row
        yield mask_NU, next_NU


def _unpacked(packed_NB: npt.NDArray[np.uint8], units: int) -> Bools:
    return np.unpackbits(packed_NB, axis=1, count=units).view(np.bool_)
