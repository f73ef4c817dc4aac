"""bitsandbytes: LLM.int8 as codes, 4-bit floats widened.

Of 8 bits: weight int8 [R, C] and SCB float32 [R], the largest magnitude of each row; W = weight SCB / 127.
Of 4 bits, widened to the dtype that the checkpoint names, as the library widens them:

    weight             uint8 [R C / 2, 1]   two codes to a byte, the first in the high half
    weight.quant_map   float32 [16]         the value of each code: nf4 or fp4
    weight.absmax      [blocks]             what the values of a block of codes are multiplied by, or, quantised twice,
                                            codes of 8 bits of it, with nested_quant_map and nested_absmax
    weight.quant_state.bitsandbytes__nf4    the block's size, shape and dtype, as JSON

Source: Dettmers et al. (2022, 2023), and the state that bitsandbytes documents for serialised 4-bit weights.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from dipc.frontend.prequantized.layout import JsonLike, Layout, Matrix, Parts, exact_scales, take
from dipc.ir.codes import QuantizedTensor

_STATE = "weight.quant_state.bitsandbytes__"
_LARGEST = 127
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def _matrix(parts: Parts, shape: tuple[int, int], _: JsonLike) -> Matrix:
    return _int8(parts, shape) if "SCB" in parts else _four_bits(parts, shape)


def _int8(parts: Parts, shape: tuple[int, int]) -> Matrix:
    weight = take(parts, "weight", shape, torch.int8)
    largest = take(parts, "SCB", shape[:1], torch.float32, torch.float16)
    if int(parts.get("weight_format", torch.tensor(0)).sum()):
        raise ValueError("its rows are in the order of a GPU; save the model again with a newer bitsandbytes")
    codes = (weight.short() + 128).to(torch.uint8)
    return QuantizedTensor(codes, exact_scales(largest.float()[:, None] / _LARGEST), None, 8, shape[1], 1)


def _four_bits(parts: Parts, shape: tuple[int, int]) -> Tensor:
    state = _state(parts)
    size, values = int(state["blocksize"]), shape[0] * shape[1]
    packed = parts["weight"]
    if packed.dtype != torch.uint8 or 2 * packed.numel() != values + values % 2 or tuple(state["shape"]) != shape:
        raise ValueError(f"weight {list(packed.shape)} holds no {list(shape)} codes of 4 bits")
    table = take(parts, "weight.quant_map", (16,), torch.float32)
    flat = packed.reshape(-1)
    codes = torch.stack((flat >> 4, flat & 15), -1).reshape(-1)[:values]
    blocks = -(-values // size)
    scales = _scales(parts, state, blocks)
    wide = table[codes.int()] * scales.repeat_interleave(size)[:values]
    return wide.view(shape).to(_DTYPES[state["dtype"]])


def _state(parts: Parts) -> dict[str, Any]:
    """The state's JSON. ValueError where there is none, or it does not say what it should."""
    name = next((name for name in parts if name.startswith(_STATE)), None)
    if name is None:
        raise ValueError("has no quant_state; save the model again with a newer bitsandbytes")
    try:
        state = json.loads(bytes(parts[name].tolist()))
        if int(state["blocksize"]) < 1 or state["dtype"] not in _DTYPES or not isinstance(state["shape"], list):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name} does not say block size, shape and dtype") from error
    return dict(state)


def _scales(parts: Parts, state: JsonLike, blocks: int) -> Tensor:
    if "weight.nested_absmax" not in parts:
        return take(parts, "weight.absmax", (blocks,), torch.float32)
    codes = take(parts, "weight.absmax", (blocks,), torch.uint8)
    size = int(state.get("nested_blocksize", 256))
    outer = take(parts, "weight.nested_absmax", (-(-blocks // size),), torch.float32)
    table = take(parts, "weight.nested_quant_map", (256,), torch.float32)
    return table[codes.int()] * outer.repeat_interleave(size)[:blocks] + float(state.get("nested_offset", 0.0))


_PARTS = ("weight", "SCB", "weight_format", *(f"weight.{n}" for n in ("absmax", "quant_map")))
_NESTED = ("weight.nested_absmax", "weight.nested_quant_map", f"{_STATE}nf4", f"{_STATE}fp4")
LAYOUT = Layout(
    lambda parts: "SCB" in parts or "weight.absmax" in parts, lambda about: None, _matrix, (*_PARTS, *_NESTED)
)
