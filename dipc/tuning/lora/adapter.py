"""LoRA adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors.

PEFT makes, initialises, merges and names them; dipc holds the program. Both meet in the names of the original model's
linear layers: a skeleton of them, without the model around, is what PEFT sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from dipc.errors import MissingDependency
from dipc.ir.operator import argument
from dipc.ir.operators import LINEAR, matrices_of

ADAPTER = "default"
CONFIG, TENSORS, RECORD = "adapter_config.json", "adapter_model.safetensors", "dipc_adapter.json"
_SUFFIX = "_lora"


def peft_module() -> Any:
    """The package. MissingDependency if it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft
    except ImportError:
        raise MissingDependency("adapters need peft; pip install 'dipc[finetune]'") from None
    return peft


def adapted_name(weight: str) -> str:
    """Return what a weight is called once an adapter is folded into it."""
    return f"{weight.removesuffix('.weight')}{_SUFFIX}.weight"


@dataclass
class LinearLayer:
    """A linear layer of the original model.

    Attributes:
        module: its path there, such as `model.layers.0.mlp.up_proj`.
        readers: the weights that hold its rows, in order, each with the nodes that multiply by it. There are two where
            `outline-glu` cut a fused gate and up in half.
    """

    module: str
    readers: dict[str, list[fx.Node]] = field(default_factory=dict)

    def shape(self, weights: Mapping[str, Tensor]) -> tuple[int, int]:
        """(outputs, inputs)."""
        return sum(self.rows(weights)), weights[next(iter(self.readers))].shape[1]

    def rows(self, weights: Mapping[str, Tensor]) -> list[int]:
        """Rows that each weight holds."""
        return [weights[name].shape[0] for name in self.readers]

    def matrix(self, weights: Mapping[str, Tensor]) -> Tensor:
        """[outputs, inputs]."""
        parts = [weights[name] for name in self.readers]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def linear_layers(graph: fx.Graph) -> dict[str, LinearLayer]:
    """Path -> layer, for every linear layer of the original model whose weight the graph holds as it is."""
    found: dict[str, LinearLayer] = {}
    for node, weight, module in _matrices(graph):
        layer = found.setdefault(module, LinearLayer(module))
        layer.readers.setdefault(str(weight.target), []).append(node)
    for layer in found.values():
        layer.readers = dict(sorted(layer.readers.items()))  # of halves, gate_proj was cut from the first rows
    return found


def _matrices(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node, str]]:
    """Every (product, weight, path of the layer)."""
    for node in graph.nodes:
        for name in matrices_of(node):
            weight = argument(node, name)
            if weight.op == "get_attr":
                # By the node where it is the layer's own: a tied head goes by the embedding's weight.
                yield node, weight, str(node.meta["module"]) if node.target is LINEAR else path_of(weight)


def path_of(weight: fx.Node) -> str:
    """The path of the linear layer that a weight of a gated MLP belonged to."""
    path = str(weight.meta.get("module") or str(weight.target).removesuffix(".weight"))
    while path.endswith(_SUFFIX):
        path = path.removesuffix(_SUFFIX)
    return path


def skeleton(layers: Mapping[str, LinearLayer], weights: Mapping[str, Tensor]) -> nn.Module:
    """A module with the layers at their paths, their weights of the right shape, dtype and device but never filled."""
    root = nn.Module()
    for path, layer in layers.items():
        parent, like = root, weights[next(iter(layer.readers))]
        *above, leaf = path.split(".")
        for name in above:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        outputs, inputs = layer.shape(weights)
        made = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False, dtype=like.dtype, device=like.device)
        parent.add_module(leaf, made.requires_grad_(False))
    return root


def lora_layer(model: Any, path: str) -> Any:
    """PEFT's layer at a path of the skeleton that it wrapped."""
    return model.base_model.model.get_submodule(path)
