"""Rotary embeddings whose frequencies follow the length of the sequence, as functions that a trace can hold.

transformers looks at the longest position of a call: beyond the pretrained length, longrope takes its long factors and
dynamic NTK widens its base. It writes what it chose into a buffer, or branches on it. Here the choice is computed from
`position_ids` in each call and nothing is written, so the graph chooses as transformers does, call by call.

Shape legend: R half of a head's rotated dimensions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def follow_length(model: nn.Module) -> dict[str, Tensor]:
    """Make the rotary modules of a model on the meta device choose without writing.

    Call it outside of any device context: the tables that it gives are computed on the CPU.

    Returns:
        The buffers that it adds to `model`, by name, each with its values f32[R].
    """
    added: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        kinds = _rope_types(module)
        if not any(kind in ("longrope", "dynamic") for kind in kinds.values()):
            continue
        for layer_type, kind in kinds.items():
            if kind == "longrope":
                name = f"{_prefix(layer_type)}long_inv_freq"
                module.__dict__.pop(name, None)  # transformers' own, of an earlier call
                table = _long_inv_freq(module, layer_type)
                module.register_buffer(name, table.to("meta"), persistent=False)
                added[f"{path}.{name}" if path else name] = table
        module.forward = partial(_forward, module, inspect.unwrap(type(module).forward))
    return added


def longest_context(config: Any) -> int:
    """Positions that a model is made for: its config's, times the factor of dynamic NTK, which widens as it goes."""
    context = int(getattr(config, "max_position_embeddings", 0) or 2048)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        context = max(context, int(context * float(rope.get("factor") or 1.0)))
    return context


def _rope_types(module: nn.Module) -> dict[str | None, str]:
    """Layer type (None where all layers share one) -> kind of rotary embedding; empty for other modules."""
    found = getattr(module, "rope_type", None)
    if isinstance(found, str):
        return {None: found}
    return dict(found) if isinstance(found, dict) else {}


def _prefix(layer_type: str | None) -> str:
    return "" if layer_type is None else f"{layer_type}_"


def _parameters(module: Any, layer_type: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = module.config.rope_parameters
    return parameters if layer_type is None else parameters[layer_type]


def _long_inv_freq(module: Any, layer_type: str | None) -> Tensor:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    beyond = int(_parameters(module, layer_type)["original_max_position_embeddings"]) + 1
    named = {} if layer_type is None else {"layer_type": layer_type}
    table: Tensor = ROPE_INIT_FUNCTIONS["longrope"](module.config, "cpu", seq_len=beyond, **named)[0]
    return table


class _Instead:
    """A module with some attributes replaced, which it does not notice."""

    def __init__(self, module: nn.Module, **replaced: Any) -> None:
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _forward(
    module: nn.Module,
    rope_forward: Callable[..., Any],
    x: Tensor,
    position_ids: Tensor,
    layer_type: str | None = None,
) -> Any:
    """Call the family's own forward with the frequencies that the longest position asks for."""
    kind = _rope_types(module)[layer_type]
    prefix = _prefix(layer_type)
    length = torch.max(position_ids) + 1
    chosen = {}
    if kind == "longrope":
        limit = int(_parameters(module, layer_type)["original_max_position_embeddings"])
        long, short = (getattr(module, f"{prefix}{name}_inv_freq") for name in ("long", "original"))
        chosen = {f"{prefix}inv_freq": torch.where(length > limit, long, short)}
    elif kind == "dynamic":
        chosen = {f"{prefix}inv_freq": _dynamic_inv_freq(module, length, layer_type)}
    named = {} if layer_type is None else {"layer_type": layer_type}
    return rope_forward(_Instead(module, **chosen), x, position_ids, **named)


def _dynamic_inv_freq(module: Any, length: Tensor, layer_type: str | None) -> Tensor:
    """Dynamic NTK, as transformers' `_compute_dynamic_ntk_parameters`, without a tensor made of the config's length."""
    config = module.config
    parameters, original = _parameters(module, layer_type), getattr(module, f"{_prefix(layer_type)}original_inv_freq")
    limit, factor = int(config.max_position_embeddings), float(parameters["factor"])
    dim = 2 * original.shape[0]
    within = torch.clamp(length, min=limit)
    base = parameters["rope_theta"] * ((factor * within / limit) - (factor - 1)) ** (dim / (dim - 2))
    steps = torch.arange(0, dim, 2, dtype=torch.int64, device=original.device).to(torch.float)
    return torch.where(length > limit, 1.0 / (base ** (steps / dim)), original)
