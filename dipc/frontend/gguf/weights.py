"""The weights of a GGUF file under the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dipc.frontend.gguf.codes import BLOCKS, codes_of_blocks
from dipc.frontend.gguf.container import GgufFile, GgufTensor
from dipc.ir.codes import QuantizedTensor

# Of these families a weight is one tensor of the file; of others (experts, recurrences) transformers makes one of many.
SINGLE = ("TensorProcessor", "LlamaTensorProcessor", "Gemma2TensorProcessor", "NemotronTensorProcessor")


# Rotary frequencies are divided by these: no weight, but what a checkpoint's scaling comes to.
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Placed:
    """A tensor of the file, and how it becomes a parameter.

    Attributes:
        stored: the tensor.
        turn: moves its rows, or adds to its values: llama.cpp keeps the rows of Llama's queries and keys in an order of
            its own, and Gemma's norms plus one.
    """

    stored: GgufTensor
    turn: Callable[[Any], Any]

    def value(self) -> Tensor:
        """Return the parameter: float32, or bfloat16 where it is stored so."""
        made = torch.from_numpy(np.require(self.turn(widened(self.stored)), requirements=["C", "W"]))
        return made.bfloat16() if self.stored.form.name == "BF16" else made

    def codes(self) -> QuantizedTensor | None:
        """Return the parameter's codes; None where its type has none, or more is done to it than moving its rows."""
        stored = self.stored
        if stored.form.name not in BLOCKS or len(stored.shape) != 2:
            return None
        rows = np.arange(stored.shape[0])
        order = self.turn(rows[:, None]).reshape(-1)
        if not np.array_equal(np.sort(order), rows):
            return None
        found = codes_of_blocks(torch.from_numpy(np.array(stored.data).reshape(len(rows), -1)), stored.form.name)
        return found if np.array_equal(order, rows) else found.rows(torch.from_numpy(np.ascontiguousarray(order)))


def widened(tensor: GgufTensor) -> Any:
    """Return a tensor's values, float32 [shape], by the package `gguf`."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = tensor.data.reshape(*tensor.shape[:-1], -1)
    if tensor.form.name == "F64":
        return rows.view("<f8").astype(np.float32)
    return dequantize(rows, GGMLQuantizationType[tensor.form.name]).reshape(tensor.shape)


def place(file: GgufFile, twin: nn.Module) -> dict[str, Placed] | None:
    """Return each tensor by the name of the weight that it is; None where some weight is not one tensor of the file.

    gguf's tables say what a weight is called, and transformers' what is done to its values.

    Args:
        file: the model as it is stored; a tensor that the model does not have keeps its name.
        twin: the model of its config, on the meta device.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    kind: Any = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    architecture = next((key for key, name in MODEL_ARCH_NAMES.items() if name == file.architecture), None)
    if kind.__name__ not in SINGLE or architecture is None:
        return None
    config = twin.config.get_text_config()  # type: ignore[operator,union-attr]
    processor, table = kind(config=dict(config.to_dict())), get_tensor_name_map(architecture, config.num_hidden_layers)
    names: dict[str, str] = {}
    for name, _ in twin.named_parameters():
        path, dot, suffix = name.rpartition(".")
        if (stored := table.get_name(path)) is None:
            return None
        names[stored + dot + suffix] = name
    return {
        names.get(name, name): Placed(tensor, _turn(processor, name))
        for name, tensor in file.tensors.items()
        if name != ROPE_FACTORS
    }


def _turn(processor: Any, name: str) -> Callable[[Any], Any]:
    return lambda weights: processor.process(weights=weights, name=name).weights
