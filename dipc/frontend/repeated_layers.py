"""Which layers of a decoder are alike, so that a trace of the first stands for the others (`layer_copies`).

Tracing a layer takes seconds, and a model has dozens of which few differ. `find_layers` looks at all that a tracer sees
of a layer, and `shorten` cuts the twin that is traced to the first, so many that each kind stands there twice, or once
where the model has no more.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FEWEST = 4
"""Layers from which on a shorter twin is worth its while."""


@dataclass(frozen=True)
class Layers:
    """The layers of a model, of which the first stand for all.

    Attributes:
        path: the module that holds them: `model.layers`.
        source: for each of the L layers, the layer of the prefix that it is a copy of: itself within the prefix.
        twins: pairs of layers of the prefix that must be the same.
        prefix: P.
    """

    path: str
    source: tuple[int, ...]
    twins: tuple[tuple[int, int], ...]
    prefix: int

    @property
    def copies(self) -> dict[int, int]:
        """The layers that are not traced, each with the one that it is a copy of."""
        return {layer: source for layer, source in enumerate(self.source) if layer >= self.prefix}

    def number(self, name: str) -> int | None:
        """The layer that a module or a weight belongs to, None outside the layers."""
        found = re.match(rf"(?:constant\.)?{re.escape(self.path)}\.(\d+)(?:\.|$)", name)
        return int(found[1]) if found else None

    def renumbered(self, name: str, layer: int) -> str:
        """The same name in another layer."""
        return re.sub(rf"^((?:constant\.)?{re.escape(self.path)}\.)\d+(?=\.|$)", rf"\g<1>{layer}", name)


def find_layers(model: nn.Module, config: Any) -> Layers | None:
    """The layers of a decoder, or None where it has few, they are not to be told, or hardly any two are alike."""
    count = int(getattr(config, "num_hidden_layers", 0))
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if count < FEWEST or len(lists) != 1 or not _known_code(model):
        return None
    path, layers = lists[0]
    owners = [{id(t) for t in (*layer.parameters(), *layer.buffers())} for layer in layers]
    if sum(map(len, owners)) != len(set().union(*owners)):
        return None  # Layers that share a weight are no copies of each other.
    kinds = [_kind(layer, config, index, count) for index, layer in enumerate(layers)]
    prefix = max(_second(kinds, kind) for kind in set(kinds)) + 1
    if prefix > count - 2:
        return None
    firsts = {kind: [i for i in range(prefix) if kinds[i] == kind] for kind in set(kinds)}
    source = tuple(i if i < prefix else firsts[kinds[i]][-1] for i in range(count))
    used = {kinds[i] for i in range(prefix, count)}
    return Layers(path, source, tuple((firsts[k][0], firsts[k][-1]) for k in sorted(used, key=kinds.index)), prefix)


def _known_code(model: nn.Module) -> bool:
    """Return whether all modules are transformers' or torch's: other code may compute with the number of layers."""
    return all(
        type(m).__module__.startswith(("transformers.models.", "transformers.activations", "torch."))
        for m in model.modules()
    )


def _second(kinds: list[Any], kind: Any) -> int:
    """The place of the second layer of a kind, or of the only one."""
    places = [i for i, other in enumerate(kinds) if other == kind]
    return places[:2][-1]


def _kind(layer: nn.Module, config: Any, index: int, count: int) -> tuple[Any, ...]:
    """All that the tracer sees of a layer but its number: modules, their plain attributes, tensors, and its config."""
    modules = tuple(
        (name, type(m), tuple((k, _said(v)) for k, v in sorted(vars(m).items()) if k[0] != "_" and k != "layer_idx"))
        for name, m in layer.named_modules()
    )
    tensors = tuple((n, tuple(t.shape), t.dtype) for n, t in (*layer.named_parameters(), *layer.named_buffers()))
    listed = tuple((k, repr(v[index])) for k, v in sorted(_per_layer(config, count)))
    return modules, tensors, listed


def _said(value: object) -> object:
    """A plain attribute in words; any other thing is the same only where it is the same object."""
    plain = (bool, int, float, str, type(None), tuple, list, dict, torch.dtype)
    if isinstance(value, functools.partial):
        return _said(value.func), repr(value.args), repr(value.keywords)
    return repr(value) if isinstance(value, plain) else id(value)


def _per_layer(config: Any, count: int) -> Iterable[tuple[str, Any]]:
    """The entries of a config that say one thing for each layer."""
    return ((k, v) for k, v in vars(config).items() if isinstance(v, (list, tuple)) and len(v) == count)


def shorten(twin: nn.Module, layers: Layers) -> None:
    """Cut a twin of the model, which is changed, to its first layers."""
    held = twin.get_submodule(layers.path)
    assert isinstance(held, nn.ModuleList)
    del held[layers.prefix :]
    count = len(layers.source)
    configs = {id(c): c for m in twin.modules() if (c := getattr(m, "config", None)) is not None}
    for config in list(configs.values()):
        if hasattr(config, "get_text_config"):
            text = config.get_text_config()
            configs[id(text)] = text
    for config in configs.values():
        if getattr(config, "num_hidden_layers", None) == count:
            for name, values in list(_per_layer(config, count)):
                setattr(config, name, values[: layers.prefix])
            config.num_hidden_layers = layers.prefix
