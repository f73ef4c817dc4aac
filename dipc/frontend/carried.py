"""The state that a model carries from call to call, as tensors to trace with and as ports: KV cache and recurrences.

An attention layer keeps keys and values, one per position. A short convolution keeps its last inputs, and a state-space
or linear-attention layer a state of one size, whatever the text's length; both start at zero, which is what
transformers pads with at a text's beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dipc.errors import UnsupportedModel
from dipc.ir.program import Port, TensorType

if TYPE_CHECKING:
    from transformers import DynamicCache

Dims = dict[int, Any]


@dataclass(frozen=True)
class Carried:
    """One tensor of a cache. `tensor` is the example that is traced with; `name` is its port's."""

    name: str
    kind: Literal["kv", "recurrent"]
    tensor: Tensor
    window: int | None = None

    @property
    def dynamic(self) -> Dims:
        """Dimensions that torch.export is to leave open: the past positions."""
        return {2: torch.export.Dim.AUTO} if self.kind == "kv" else {}

    def port(self, value: Tensor) -> Port:
        """Its port, by the tensor that the trace saw."""
        past = "past" if self.window is None else "past_window"
        shape = tuple(past if self.kind == "kv" and i == 2 else int(s) for i, s in enumerate(value.shape))
        return Port(
            self.name, self.kind, TensorType(str(value.dtype).removeprefix("torch."), shape), window=self.window
        )


def example_cache(seen: Any, what: str, window: int | None, *, closed: bool) -> tuple[DynamicCache, list[Carried]]:
    """Return a cache to trace with, like one that a model has filled, and its tensors in the exporter's order.

    Args:
        seen: the cache after a call.
        what: the model, for messages.
        window: gives the sliding layers a length of their own (dipc.frontend.kv_cache); None: all have one.
        closed: whether the model's recurrences can be traced (dipc.frontend.recurrences).

    Raises:
        UnsupportedModel: a layer keeps what is neither keys and values nor a state that can be traced.
    """
    from transformers import DynamicCache
    from transformers.exporters.exporter_dynamo import register_pytree_node

    loops = [i for i, layer in enumerate(seen.layers) if _has_recurrent_state(layer)]
    if loops and not closed:
        raise UnsupportedModel(
            f"{what} cannot be captured: it has layers ({_some(loops)}) with a recurrent state that it computes token "
            "by token (state-space or linear attention), which dipc cannot trace; it can trace Mamba-2, the gated "
            "delta rule and short convolutions"
        )
    cache = DynamicCache()
    found: list[Carried] = []
    for index, layer in enumerate(seen.layers):
        _check_known(layer, index, what)
        cache.layers.append(_example_layer(layer, index, window, found))
    cache.layer_class_to_replicate = None
    register_pytree_node(DynamicCache)
    by_identity = {id(c.tensor): c for c in found}
    ordered = [by_identity[id(leaf)] for leaf in tree_leaves(cache) if id(leaf) in by_identity]
    return cache, ordered


def _check_known(layer: Any, index: int, what: str) -> None:
    from transformers import cache_utils as kinds

    if type(layer) not in (
        kinds.DynamicLayer,
        kinds.DynamicSlidingWindowLayer,
        kinds.DummyLayer,
        kinds.LinearAttentionLayer,
        kinds.LinearAttentionAndFullAttentionLayer,
        kinds.LinearAttentionAndSlidingWindowAttentionLayer,
    ):
        raise UnsupportedModel(
            f"{what} cannot be captured: layer {index} keeps a {type(layer).__name__}, which dipc cannot carry "
            "from call to call"
        )


def _example_layer(layer: Any, index: int, window: int | None, found: list[Carried]) -> Any:
    from transformers import cache_utils as kinds

    from dipc.frontend.kv_cache import PAST, PAST_WINDOW, WindowLayer

    recurrent = isinstance(layer, kinds.LinearAttentionCacheLayerMixin)
    attends = getattr(layer, "keys", None) is not None
    slides = window is not None and type(layer) is kinds.DynamicSlidingWindowLayer
    made: Any = kinds.DummyLayer()
    if recurrent:
        both, one = kinds.LinearAttentionAndFullAttentionLayer, kinds.LinearAttentionLayer
        made = (both if attends else one)(number_of_states=layer.number_of_states)
        _copy_states(layer, made, index, found)
    elif attends:
        made = WindowLayer(window) if window is not None and slides else kinds.DynamicLayer()
    if attends:
        keys, values = (_resized(t, PAST_WINDOW if slides else PAST) for t in (layer.keys, layer.values))
        kinds.DynamicLayer.update(made, keys, values)
        for name, tensor in (("key", made.keys), ("value", made.values)):
            found.append(Carried(f"past_{index}_{name}", "kv", tensor, window if slides else None))
    return made


def _resized(tensor: Tensor, positions: int) -> Tensor:
    batch, heads, _, size = tensor.shape
    return tensor.new_empty(batch, heads, positions, size)


def _has_recurrent_state(layer: Any) -> bool:
    return any(state is not None for state in (getattr(layer, "recurrent_states", None) or {}).values())


def _some(layers: list[int]) -> str:
    return ", ".join(map(str, layers[:3])) + (", ..." if len(layers) > 3 else "")


def _copy_states(layer: Any, made: Any, index: int, found: list[Carried]) -> None:
    """Give a layer the states of another: as of a text that has begun, so that a call continues it."""
    made.dtype, made.device = layer.dtype, layer.device
    for what, states in (("conv", "conv_states"), ("recurrent", "recurrent_states")):
        for state, tensor in getattr(layer, states).items():
            if tensor is None:
                continue
            getattr(made, states)[state] = torch.empty_like(tensor)
            getattr(made, f"is_{states}_initialized")[state] = True
            name = f"past_{index}_{what}" + (f"_{state}" if state else "")
            found.append(Carried(name, "recurrent", getattr(made, states)[state]))
    made.conv_kernel_size = dict(layer.conv_kernel_size)
    made.has_previous_state = dict(layer.has_previous_state)
