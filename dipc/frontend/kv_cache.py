"""The KV cache that a model is traced with: layers that attend to a sliding window have a length of their own.

A layer with a window of W attends to a token and the W - 1 before it, so between two calls its cache needs no more than
those. transformers' own sliding layer counts tokens in a Python number, which a trace would freeze. Here such a layer
counts by its own length, and its positions from its first one: a window masks by differences of positions only, and
rotary angles come from `position_ids`. Whoever runs the program drops what has left the window.

Chunked attention (Llama-4) masks by the positions themselves, so its layers keep everything. So do all layers where a
model has several windows, and where the window is at least as long as the context.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from dipc.ir.program import Port, Program, TensorType

PAST, PAST_WINDOW = 5, 3
"""Positions to trace with; different ones, so that the two lengths stay apart."""


class WindowLayer(DynamicLayer):
    """A cache layer of its own length, which transformers' masks know for a sliding one by `is_sliding`."""

    is_sliding = True

    def __init__(self, window: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window


def window_of(config: Any) -> int | None:
    """The window of the model's sliding layers; None where no layer has one that `DynamicCache` knows.

    None too where attention is chunked, windows differ, or the window holds the whole context.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if getattr(text, "attention_chunk_size", None) is not None:
        return None
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # a config of which transformers makes no such cache: its model makes its own
        return None
    found = {int(layer.sliding_window) for layer in layers if type(layer) is DynamicSlidingWindowLayer}
    context = getattr(text, "max_position_embeddings", None) or float("inf")
    return found.pop() if len(found) == 1 and 1 < max(found) < context else None


def cache_to_trace(seen: Any, window: int | None) -> DynamicCache:
    """A cache to trace a model with.

    Args:
        seen: the model's own after a call; keys and values [1, heads, positions, head_dim] in each of its layers.
        window: gives the sliding layers a length of their own; None: all have one.
    """
    cache = DynamicCache()
    for index, layer in enumerate(seen.layers):
        slides = window is not None and type(layer) is DynamicSlidingWindowLayer
        cache.layers.append(WindowLayer(window) if window is not None and slides else DynamicLayer())
        positions = PAST_WINDOW if slides else PAST
        cache.update(_resized(layer.keys, positions), _resized(layer.values, positions), index)
    return cache


def windows_of_ports(cache: Any) -> dict[str, int]:
    """Port of a sliding layer -> its window."""
    return {
        f"past_{index}_{what}": layer.window
        for index, layer in enumerate(cache.layers)
        if isinstance(layer, WindowLayer)
        for what in ("key", "value")
    }


def masks_by_window(program: Program) -> bool:
    """Return whether the graph names the window of its ports, as a mask by it does: else all that is given is read."""
    windows = {port.window for port in program.inputs if port.window is not None}
    return windows <= {abs(a) for node in program.graph.nodes for a in node.args if type(a) is int}


def kv_port(name: str, dtype: str, shape: torch.Size, window: int | None) -> Port:
    """The port of keys or values [1, heads, positions, head_dim]."""
    past = "past" if window is None else "past_window"
    return Port(
        name, "kv", TensorType(dtype, tuple(past if i == 2 else int(s) for i, s in enumerate(shape))), window=window
    )


def _resized(tensor: torch.Tensor, positions: int) -> torch.Tensor:
    batch, heads, _, size = tensor.shape
    return tensor.new_empty(batch, heads, positions, size)
