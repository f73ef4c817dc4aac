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

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from dipc.ir.program import Program

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


def masks_by_window(program: Program) -> bool:
    """Return whether the graph names the window of its ports, as a mask by it does: else all that is given is read."""
    windows = {port.window for port in program.inputs if port.window is not None}
    return windows <= {abs(a) for node in program.graph.nodes for a in node.args if type(a) is int}
