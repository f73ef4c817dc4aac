"""GPTQ, as AutoGPTQ and GPTQModel write it.

    qweight int32 [C bits / 32, R]   codes of a column run on through its words, the lowest bits first
    qzeros  int32 [G, R bits / 32]   zero points, packed along the outputs; stored less one, but for the format gptq_v2
    scales  float16 [G, R]
    g_idx   int32 [C]                the group of each input; with act-order (desc_act) they do not follow each other

W = (code - zero) scale. Source: the formats' description in GPTQModel's README, and Frantar et al. (2023).
"""

from __future__ import annotations

import torch

from dipc.frontend.prequantized.layout import JsonLike, Layout, Matrix, Parts, as_bytes, grouped, take, unpacked

_BITS = (2, 3, 4, 8)
_FORMATS = ("gptq", "gptq_v2")


def _obstacle(about: JsonLike) -> str | None:
    if about.get("bits") not in _BITS:
        return f"{about.get('bits')} bits a weight"
    form = about.get("checkpoint_format") or about.get("format") or "gptq"
    return None if form in _FORMATS else f"the checkpoint format {form!r}"


def _matrix(parts: Parts, shape: tuple[int, int], about: JsonLike) -> Matrix:
    rows, columns = shape
    bits, group = int(about["bits"]), int(about.get("group_size") or -1)
    group = columns if group < 1 else group
    groups = -(-columns // group)
    if columns * bits % 32 or rows * bits % 32:
        raise ValueError(f"{rows} x {columns} codes of {bits} bits fill no whole words")
    words = take(parts, "qweight", (columns * bits // 32, rows), torch.int32)
    scales = take(parts, "scales", (groups, rows), torch.float16, torch.bfloat16, torch.float32)
    packed = take(parts, "qzeros", (groups, rows * bits // 32), torch.int32)
    form = about.get("checkpoint_format") or about.get("format")
    zeros = unpacked(packed, bits, rows).int() + (0 if form == "gptq_v2" else 1)
    group_of = take(parts, "g_idx", (columns,), torch.int32, torch.int64) if "g_idx" in parts else None
    return grouped(as_bytes(words.T), scales.T, zeros.T, bits, group, group_of)


LAYOUT = Layout(lambda parts: "qweight" in parts, _obstacle, _matrix, ("qweight", "qzeros", "scales", "g_idx"))
