"""A program: its graph, weights and ports, and what operators say of themselves.

Plug-ins import from here what an operator is written with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipc.ir.onnx_form import OnnxForm, onnx_node
    from dipc.ir.operator import Operator, Read, argument, weight_name, weight_read
    from dipc.ir.operators import target
    from dipc.ir.program import Mlp, Program
    from dipc.ir.signature import schema_of

__all__ = [
    "Mlp",
    "OnnxForm",
    "Operator",
    "Program",
    "Read",
    "argument",
    "onnx_node",
    "schema_of",
    "target",
    "weight_name",
    "weight_read",
]

_HOMES = {
    "onnx_form": ("OnnxForm", "onnx_node"),
    "operator": ("Operator", "Read", "argument", "weight_name", "weight_read"),
    "operators": ("target",),
    "program": ("Mlp", "Program"),
    "signature": ("schema_of",),
}


def __getattr__(name: str) -> Any:
    """Return a name when it is first asked for: most of them need torch, and some modules here do not."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
