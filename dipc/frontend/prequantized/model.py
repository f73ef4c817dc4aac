"""A quantised checkpoint as a model: its layers' codes, and everything else as transformers loads it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.checkpoint import StoredTensor, stored_as
from dipc.frontend.loading import check_loaded, check_size, load
from dipc.frontend.prequantized import awq, bitsandbytes, compressed_tensors, gptq
from dipc.frontend.prequantized.layout import JsonLike, Layout, Matrix
from dipc.frontend.quantization import instead, method_of
from dipc.frontend.stored_width import compute_dtype, main_dtype
from dipc.ir.codes import QuantizedTensor

LAYOUTS = {
    "gptq": gptq.LAYOUT,
    "awq": awq.LAYOUT,
    "compressed-tensors": compressed_tensors.LAYOUT,
    "bitsandbytes": bitsandbytes.LAYOUT,
}
NOTICE = logging.WARNING + 1
log = logging.getLogger("dipc.frontend")
# What a checkpoint says of rounding activations and the KV cache, which are not rounded here.
_NOT_ROUNDED = re.compile(r"\.self_attn\.[qkv]_(scale|zero_point)$|\.(input|output)_(scale|zero_point)$")


@dataclass(frozen=True)
class Opened:
    """A quantised checkpoint, loaded.

    Attributes:
        model: with a number instead of each matrix whose codes were kept, which takes no memory.
        codes: these codes, by the parameter's name.
        tensors: how everything else is stored, by the parameter's name.
    """

    model: nn.Module
    codes: dict[str, QuantizedTensor]
    tensors: dict[str, StoredTensor]


def layout_of(name: str, quantization: JsonLike) -> Layout | None:
    """The layout of a method that is read here; None for another method.

    Raises:
        UnsupportedModel: the method has this checkpoint in a layout that is not read.
    """
    method = method_of(quantization)
    layout = LAYOUTS.get(method)
    if layout is not None and (obstacle := layout.obstacle(quantization)) is not None:
        raise UnsupportedModel(
            f"{name}: its weights are quantised with {method}, and {obstacle} is not read; {instead()}"
        )
    return layout


def open_quantized(
    name: str, twin: nn.Module, held: Mapping[str, Tensor], layout: Layout, quantization: JsonLike, dtype: str
) -> Opened:
    """Load a quantised checkpoint.

    Args:
        name: what messages call it.
        twin: the model without quantisation, on the meta device.
        held: all tensors of the checkpoint.
        layout: of its quantised layers.
        quantization: what its config says of them.
        dtype: what to compute in; "auto" follows what is not quantised.

    Raises:
        BadFile: a layer's parts are not what they should be, or weights are missing or do not fit.
    """
    state = {key: tensor for key, tensor in held.items() if not _NOT_ROUNDED.search(key)}
    layers = _taken(twin, state, layout)
    if not layers:
        method = method_of(quantization)
        raise BadFile(
            f"{name}: its weights are quantised with {method}, says config.json, and no layer is stored so; if they "
            "are not, take quantization_config out of it"
        )
    _forget_empty_biases(twin, state, layers)
    tensors = {key: stored_as(tensor) for key, tensor in state.items()}
    shapes = {key: StoredTensor("float", shape, 0.0) for key, (_, shape) in layers.items()}
    check_size(name, twin, tensors | shapes)
    compute = getattr(torch, dtype) if dtype != "auto" else compute_dtype(main_dtype(tensors), None)
    codes: dict[str, QuantizedTensor] = {}
    for key, (parts, shape) in layers.items():
        matrix = _matrix(name, key, parts, shape, layout, quantization)
        if isinstance(matrix, QuantizedTensor):
            codes[key], state[key] = matrix, torch.zeros((), dtype=compute).expand(shape)
        else:
            bits = 8 * sum(part.numel() * part.element_size() for part in parts.values()) / matrix.numel()
            state[key], tensors[key] = matrix, StoredTensor("float", shape, bits)
    model, info = load(type(twin), None, config=twin.config, state_dict=state, dtype=compute)
    check_loaded(name, info)
    wide = len(layers) - len(codes)
    if wide:
        what = "a matrix that has" if wide == 1 else f"{wide:,} matrices that have"
        log.log(NOTICE, "%s: %s no such codes here: %s, widened", name, what, method_of(quantization))
    return Opened(model, codes, tensors)


_Layers = dict[str, tuple[dict[str, Tensor], tuple[int, int]]]


def _taken(twin: nn.Module, state: dict[str, Tensor], layout: Layout) -> _Layers:
    """The parts and shapes of the layers that are quantised, by their parameters' names; taken out of `state`."""
    layers: _Layers = {}
    for path, module in twin.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        names = {part: f"{path}.{part}" for part in layout.parts}
        parts = {part: state[key] for part, key in names.items() if key in state}
        if layout.holds(parts):
            rows, columns = module.weight.shape
            layers[f"{path}.weight"] = parts, (rows, columns)
            for part in parts:
                del state[names[part]]
    return layers


def _forget_empty_biases(twin: nn.Module, state: dict[str, Tensor], layers: _Layers) -> None:
    """Let go of zeros that some writers store as the bias of every layer."""
    known = dict(twin.named_parameters())
    for key in layers:
        bias = f"{key.removesuffix('weight')}bias"
        if bias in state and bias not in known and not bool(state[bias].any()):
            del state[bias]


def _matrix(
    name: str, key: str, parts: dict[str, Tensor], shape: tuple[int, int], layout: Layout, quantization: JsonLike
) -> Matrix:
    try:
        matrix = layout.matrix(parts, shape, quantization)
        if isinstance(matrix, QuantizedTensor) and not bool(matrix.scales.isfinite().all()):
            raise ValueError("its scales hold NaN or infinity; the checkpoint is damaged")
        return matrix
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        why = str(error).splitlines()[0] if isinstance(error, ValueError) else "its parts do not fit together"
        path = key.removesuffix(".weight")
        raise BadFile(f"{name}: {path} ({method_of(quantization)}): {why}") from error
