"""Quantised checkpoints: which can be computed right, and how wide a config alone says that weights are stored."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from dipc.errors import BadFile, MissingDependency, UnsupportedModel
from dipc.frontend.checkpoint import StoredTensor, stored_as

JsonLike = Mapping[str, Any]
_SCALE_BITS = 16
_BNB_BLOCK, _BNB_SECOND_BLOCK = 64, 256


def quantization_of(config: Any) -> dict[str, Any] | None:
    """Return what a transformers config says of how its weights were quantised; None for those that were not."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for holder in (config, text):
        for key in ("quantization_config", "compression_config"):
            if (found := getattr(holder, key, None)) is not None:
                return _as_dict(found)
    return None


def _as_dict(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping) and not hasattr(found, "to_dict"):
        return {"quant_method": f"{str(found)[:40]!r}"}
    return dict(found if isinstance(found, Mapping) else found.to_dict())


def method_of(quantization: JsonLike) -> str:
    """Return the method's name."""
    blocks = ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit")
    known = "bitsandbytes" if any(quantization.get(key) for key in blocks) else "an unnamed method"
    return str(quantization.get("quant_method") or known)


def check_computable(name: str, quantization: JsonLike, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse a quantised checkpoint that would not be computed, or not be computed right.

    Weights in FP8 with a scale per block, or one for all, are widened as they are loaded. Their activations are not
    rounded, as they are not by transformers where there is no FP8 hardware.

    Raises:
        UnsupportedModel: another method than fp8.
        MissingDependency: transformers widens FP8 with accelerate only.
        BadFile: a matrix in FP8 without scales, or with too many.
    """
    method = method_of(quantization)
    if method != "fp8":
        raise UnsupportedModel(
            f"{name}: its weights are quantised with {method}, which dipc cannot compute; {instead()}"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependency(f"{name}: weights in FP8 are read with accelerate; run `pip install accelerate`")
    block = quantization.get("weight_block_size", (128, 128)) or (math.inf, math.inf)
    for weight, tensor in tensors.items():
        if tensor.dtype.startswith("float8") and len(tensor.shape) == 2 and not weight.endswith("_scale_inv"):
            _check_scales(name, weight, tensor.shape, tensors, tuple(block))


def instead() -> str:
    """Advice on a quantised checkpoint that is not read."""
    return (
        "give the checkpoint in bfloat16 or float16 and quantise it with the passes int4, int8 or gptq, or price its "
        "config.json alone"
    )


def _check_scales(
    name: str, weight: str, shape: tuple[int, ...], tensors: Mapping[str, StoredTensor], block: tuple[float, ...]
) -> None:
    """Hold the scales to the blocks: transformers infers the blocks from the scales, whatever their number."""
    spellings = (f"{weight}_scale_inv", f"{weight.removesuffix('.weight')}.scale")
    scale = next((tensors[n] for n in spellings if n in tensors), None)
    if scale is None:
        raise BadFile(f"{name}: {weight} is in FP8 and has no scales: no {spellings[0]} in the checkpoint")
    grid = tuple(math.ceil(size / width) for size, width in zip(shape, block, strict=False))
    if scale.numel == 1 and block == (math.inf, math.inf):
        return
    if scale.shape != grid:
        raise BadFile(f"{name}: {weight} {list(shape)} needs scales {list(grid)}, and has {list(scale.shape)}")
    if any(blocks > 1 and size % width for size, width, blocks in zip(shape, block, grid, strict=True)):
        raise UnsupportedModel(
            f"{name}: {weight} {list(shape)} is in FP8 blocks of {list(block)} that do not divide it, which "
            "transformers cannot read"
        )


def priced_tensors(name: str, quantization: JsonLike, twin: nn.Module, bits: float) -> dict[str, StoredTensor]:
    """Return the form that a config alone gives each weight: quantised linear layers, all else at `bits`.

    Args:
        name: what messages call the model.
        quantization: what its config says.
        twin: the model, on the meta device.
        bits: the width of what is not quantised.

    Raises:
        UnsupportedModel: the config does not say how wide its method makes a weight.
        BadFile: it names layers by no pattern.
    """
    method = method_of(quantization)
    width = linear_bits(method, quantization)
    if width is None or not 1 <= width <= 32:
        raise UnsupportedModel(
            f"{name}: its quantization_config ({method}) does not say how many bits a weight takes; give a config "
            "without it, and the width as --bits-per-weight"
        )
    try:
        narrow = {f"{path}.weight" for path in _quantised_layers(quantization, twin)}
    except (re.error, TypeError) as error:
        raise BadFile(f"{name}: its quantization_config names layers that it cannot mean: {error}") from error
    parameters = {n: stored_as(p) for n, p in twin.named_parameters()}
    return {n: StoredTensor("float", t.shape, width if n in narrow else bits) for n, t in parameters.items()}


def _quantised_layers(quantization: JsonLike, twin: nn.Module) -> list[str]:
    """Paths of the linear layers that are quantised; a head is none of them unless the config says so."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    keys = ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules")
    skipped = [p.removeprefix("re:") for key in keys for p in quantization.get(key) or () if isinstance(p, str)]
    head = getattr(twin, "get_output_embeddings", lambda: None)()
    convert_head = bool(quantization.get("lm_head"))
    return [
        path
        for path, layer in twin.named_modules()
        if isinstance(layer, nn.Linear) and (layer is not head or convert_head) and should_convert_module(path, skipped)
    ]


def linear_bits(method: str, given: JsonLike) -> float | None:
    """Return bits per weight of a quantised layer, scales and zeros included; None where the config does not say."""
    try:
        if method == "fp8":
            block = given.get("weight_block_size", (128, 128))
            return 8.0 + (0.0 if block is None else 32 / math.prod(block))
        if method in ("gptq", "awq"):
            bits = int(given.get("bits") or given["w_bit"])
            group = int(given.get("group_size") or given.get("q_group_size") or 128)
            return bits + ((_SCALE_BITS + bits) / group if group > 0 else 0.0)
        if method == "bitsandbytes":
            return _bitsandbytes_bits(given)
        if method == "compressed-tensors":
            return _compressed_bits(given)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        pass
    return None


def _bitsandbytes_bits(given: JsonLike) -> float | None:
    if given.get("load_in_4bit") or given.get("_load_in_4bit"):
        if given.get("bnb_4bit_use_double_quant"):
            return 4 + 8 / _BNB_BLOCK + 32 / (_BNB_BLOCK * _BNB_SECOND_BLOCK)
        return 4 + 32 / _BNB_BLOCK
    return 8.0 if given.get("load_in_8bit") or given.get("_load_in_8bit") else None


def _compressed_bits(given: JsonLike) -> float | None:
    """Bits of the one group that holds all linear layers; several groups leave it open which layer has which."""
    groups = list(given["config_groups"].values())
    if len(groups) != 1 or groups[0].get("targets") != ["Linear"]:
        return None
    weights = groups[0]["weights"]
    bits, group = int(weights["num_bits"]), int(weights.get("group_size") or 0)
    zeros = 0 if weights.get("symmetric", True) else bits
    return bits + ((_SCALE_BITS + zeros) / group if group > 0 else 0.0)


def without_quantization(config: Any) -> None:
    """Take the quantisation out of a transformers config in place, so that a plain model is made of it."""
    for holder in (config, config.get_text_config() if hasattr(config, "get_text_config") else config):
        for key in ("quantization_config", "compression_config"):
            if hasattr(holder, key):
                delattr(holder, key)


def widened_as_loaded(config: Any) -> None:
    """Have transformers widen weights in FP8 on every machine, in place; by itself it does so where there is no GPU."""
    for holder in (config, config.get_text_config() if hasattr(config, "get_text_config") else config):
        if (found := getattr(holder, "quantization_config", None)) is not None:
            holder.quantization_config = _as_dict(found) | {"dequantize": True}
