"""An operator in an ONNX file: nodes of the domain `ai.dipc`, each with a function body in standard operators.

A runtime that has kernels for a name runs them; every other one runs the body. All activations are float32 there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DOMAIN = "ai.dipc"
DOMAIN_VERSION = 1
OPSET = 21
"""The opset of the standard operators in bodies and models: the first with 4-bit and blocked dequantisation."""


@dataclass(frozen=True)
class OnnxForm:
    """An operator in an ONNX file.

    Attributes:
        to_onnx: takes the operator's arguments and gives its results by torch operations and `onnx_node`. Raises
            UnsupportedModel for arguments that no body covers.
        bodies: name of each ONNX operator that `to_onnx` may write -> its function in the text that `onnx.parser`
            reads, without domain and opset.
    """

    to_onnx: Callable[..., Any]
    bodies: Mapping[str, str] = field(default_factory=dict)


def onnx_node(
    name: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, int | float | str],
    *results: tuple[torch.dtype, Sequence[Any]],
) -> Any:
    """A node `ai.dipc.NAME` in a graph that is being traced for export; each result is given by dtype and shape."""
    from torch.onnx import ops

    dtypes, shapes = zip(*results, strict=True)
    made = ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", inputs, dict(attributes), dtypes=dtypes, shapes=shapes, version=DOMAIN_VERSION
    )
    return made[0] if len(made) == 1 else tuple(made)
