"""Layers as quantising libraries store them, packed bit by bit: what the readers of dipc are held against.

A layer is codes [R, C], whole numbers; scales and zero points [R, G], of groups of inputs that follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Layer:
    """A quantised matrix. `values` is what it stands for: (code - zero) scale, in float64."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    bits: int
    group: int

    @property
    def values(self) -> Tensor:
        places = torch.arange(self.codes.shape[1]) // self.group
        return (self.codes.double() - self.zeros.double()[:, places]) * self.scales.double()[:, places]


def made_up(
    shape: tuple[int, int], bits: int, group: int, symmetric: bool = False, dtype: torch.dtype = torch.float16
) -> Layer:
    """A layer of random codes."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1] + bits)
    rows, columns = shape
    groups = -(-columns // group)
    codes = torch.randint(0, 2**bits, shape, generator=generator)
    zeros = torch.randint(1, 2**bits, (rows, groups), generator=generator)
    zeros = torch.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros
    scales = ((torch.rand(rows, groups, generator=generator) + 0.5) / 2**bits / 4).to(dtype)
    return Layer(codes, zeros, scales, bits, group)


def words(numbers: Tensor, bits: int) -> Tensor:
    """Numbers [R, C] as words int32 [R, ceil(C bits / 32)], those of a row as the bits of one long number."""
    count = -(-numbers.shape[1] * bits // 32)
    made = []
    for row in numbers.tolist():
        content = sum(number << bits * place for place, number in enumerate(row)).to_bytes(4 * count, "little")
        made.append([int.from_bytes(content[i : i + 4], "little", signed=True) for i in range(0, 4 * count, 4)])
    return torch.tensor(made, dtype=torch.int32)


def gptq(layer: Layer, less: int = 1) -> dict[str, Tensor]:
    """As GPTQ stores it; zero points less one, or as they are."""
    return {
        "qweight": words(layer.codes, layer.bits).T.contiguous(),
        "qzeros": words(layer.zeros.T - less, layer.bits),
        "scales": layer.scales.T.contiguous(),
        "g_idx": (torch.arange(layer.codes.shape[1]) // layer.group).int(),
    }


def awq(layer: Layer) -> dict[str, Tensor]:
    """As AutoAWQ's gemm stores it."""

    def mixed(numbers: Tensor) -> Tensor:
        columns = [8 * word + place for word in range(numbers.shape[1] // 8) for place in AWQ_ORDER]
        return words(numbers[:, columns], 4)

    return {"qweight": mixed(layer.codes.T), "qzeros": mixed(layer.zeros.T), "scales": layer.scales.T.contiguous()}


def compressed(layer: Layer, packed_zeros: bool = True) -> dict[str, Tensor]:
    """As compressed-tensors' pack-quantized stores it."""
    middle = 2 ** (layer.bits - 1)
    parts = {
        "weight_packed": words(layer.codes, layer.bits),
        "weight_scale": layer.scales,
        "weight_shape": torch.tensor(layer.codes.shape),
    }
    if bool((layer.zeros != middle).any()):
        plain = (layer.zeros - middle).to(torch.int8)
        parts["weight_zero_point"] = words(layer.zeros.T, layer.bits).T.contiguous() if packed_zeros else plain
    return parts


def compressed_int8(layer: Layer) -> dict[str, Tensor]:
    """As compressed-tensors' int-quantized stores it."""
    parts = {"weight": (layer.codes - 128).to(torch.int8), "weight_scale": layer.scales}
    return parts | {"weight_zero_point": (layer.zeros - 128).to(torch.int8)}


def int8_rows(layer: Layer) -> dict[str, Tensor]:
    """As bitsandbytes' LLM.int8 stores it: one group of all inputs, zero in the middle."""
    return {
        "weight": (layer.codes - 128).to(torch.int8),
        "SCB": layer.scales.float()[:, 0] * 127,
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def four_bit_floats(codes: Tensor, table: Tensor, largest: Tensor, block: int, dtype: str) -> dict[str, Tensor]:
    """As bitsandbytes stores 4-bit floats, quantised once: codes [R, C], `table` [16], `largest` of each block."""
    flat = codes.reshape(-1).tolist()
    data = bytes(16 * first + second for first, second in zip(flat[::2], flat[1::2], strict=True))
    state = {"quant_type": "nf4", "blocksize": block, "dtype": dtype, "shape": list(codes.shape)}
    return {
        "weight": torch.tensor(list(data), dtype=torch.uint8)[:, None],
        "weight.quant_map": table,
        "weight.absmax": largest,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def in_layers(
    tensors: dict[str, Tensor], pack: Callable[[Layer], dict[str, Tensor]], **form: Any
) -> tuple[dict[str, Tensor], dict[str, Layer]]:
    """A model's tensors with every linear layer made up and packed, all else in float16; and these layers by name."""
    made: dict[str, Tensor] = {}
    layers: dict[str, Layer] = {}
    for name, tensor in tensors.items():
        if "proj" not in name:
            made[name] = tensor.half()
            continue
        rows, columns = tensor.shape
        layers[name] = made_up((rows, columns), form["bits"], form["group"] or columns, form.get("symmetric", False))
        made |= {f"{name.removesuffix('weight')}{part}": value for part, value in pack(layers[name]).items()}
    return made, layers
