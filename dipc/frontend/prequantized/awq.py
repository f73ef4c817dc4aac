"""AWQ, the layout `gemm` of AutoAWQ.

    qweight int32 [C, R / 8]   eight codes of 4 bits to a word, along the outputs, in the order 0 2 4 6 1 3 5 7
    qzeros  int32 [G, R / 8]   zero points, packed the same
    scales  float16 [G, R]

W = (code - zero) scale. Source: Lin et al. (2024), and the layouts' description in AutoAWQ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.frontend.prequantized.layout import JsonLike, Layout, Matrix, Parts, grouped, take, unpacked
from dipc.ir.codes import pack

_BITS, _PER_WORD = 4, 8
# Where in a word the code of each of eight neighbouring outputs is.
_PLACE = [0, 4, 1, 5, 2, 6, 3, 7]


def _obstacle(about: JsonLike) -> str | None:
    if (bits := about.get("bits") or about.get("w_bit")) != _BITS:
        return f"{bits} bits a weight"
    if not about.get("zero_point", True):
        return "no zero points"
    form = str(about.get("version") or about.get("format") or "gemm").lower()
    return None if form == "gemm" else f"the layout {form!r}"


def _matrix(parts: Parts, shape: tuple[int, int], about: JsonLike) -> Matrix:
    rows, columns = shape
    group = int(about.get("group_size") or about.get("q_group_size") or -1)
    group = columns if group < 1 else group
    groups = -(-columns // group)
    if rows % _PER_WORD or columns % 2:
        raise ValueError(f"{rows} x {columns} codes of {_BITS} bits fill no whole words")
    words = take(parts, "qweight", (columns, rows // _PER_WORD), torch.int32)
    scales = take(parts, "scales", (groups, rows), torch.float16, torch.bfloat16, torch.float32)
    zeros = take(parts, "qzeros", (groups, rows // _PER_WORD), torch.int32)
    return grouped(pack(_in_order(words, rows).T, _BITS), scales.T, _in_order(zeros, rows).T, _BITS, group)


def _in_order(words: Tensor, rows: int) -> Tensor:
    """Codes uint8 [..., R] of words [..., R / 8]."""
    codes: Tensor = unpacked(words, _BITS, rows).unflatten(-1, (-1, _PER_WORD))
    return codes[..., _PLACE].flatten(-2)


LAYOUT = Layout(lambda parts: "qweight" in parts, _obstacle, _matrix, ("qweight", "qzeros", "scales"))
