"""Passes and what runs them: pipelines as text, the runner, and the bases that passes share.

Plug-ins import from here what a pass or a method is written with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipc.pipeline.hidden_unit_pass import HiddenPruning
    from dipc.pipeline.mlp_rewriter import Matrix, MlpRewriter
    from dipc.pipeline.pass_ import Pass, PassResult
    from dipc.pipeline.quantization_pass import QuantizingPass
    from dipc.pipeline.sparsity_pass import CalibratedPass, SparsityPass

__all__ = [
    "CalibratedPass",
    "HiddenPruning",
    "Matrix",
    "MlpRewriter",
    "Pass",
    "PassResult",
    "QuantizingPass",
    "SparsityPass",
]

_HOMES = {
    "hidden_unit_pass": ("HiddenPruning",),
    "mlp_rewriter": ("Matrix", "MlpRewriter"),
    "pass_": ("Pass", "PassResult"),
    "quantization_pass": ("QuantizingPass",),
    "sparsity_pass": ("CalibratedPass", "SparsityPass"),
}


def __getattr__(name: str) -> Any:
    """Return a name when it is first asked for: all of them need torch, and some modules here do not."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
