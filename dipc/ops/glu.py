"""`glu`: a whole gated MLP as one node, the canonical form that `outline-glu` makes and every method rewrites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.ir.operator import Operator, Read, argument, weight_read

# Name of the activation -> the ATen call that computes it (target, keyword arguments).
ACTIVATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "silu": (torch.ops.aten.silu.default, {}),
    "gelu": (torch.ops.aten.gelu.default, {}),
    "gelu_tanh": (torch.ops.aten.gelu.default, {"approximate": "tanh"}),
    "relu": (torch.ops.aten.relu.default, {}),
}


def reference(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    b_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """Eq. 1 and 2: W_down (W_up x * act(W_gate x)). x [..., D]; w_gate, w_up [F, D]; w_down [D, F] -> [..., D]."""
    act, options = ACTIVATIONS[activation]
    hidden: Tensor = act(linear(x, w_gate, b_gate), **options) * linear(x, w_up, b_up)
    return linear(hidden, w_down, b_down)


def fake(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """[..., D] -> [..., rows of w_down]."""
    if w_gate.shape != w_up.shape or w_gate.shape[0] != w_down.shape[1] or x.shape[-1] != w_gate.shape[1]:
        raise ValueError(f"x {tuple(x.shape)}, gate {tuple(w_gate.shape)}, up {tuple(w_up.shape)}, down do not fit")
    return x.new_empty(*x.shape[:-1], w_down.shape[0])


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """All three matrices, whole, for every token."""
    return tuple(weight_read(argument(node, name), "all") for name in ("w_gate", "w_up", "w_down"))


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """x [1, T, U], d_ff = U + 3."""
    x = torch.randn(1, tokens, units, generator=generator)
    gate, up = (torch.randn(units + 3, units, generator=generator) for _ in range(2))
    down = torch.randn(units, units + 3, generator=generator)
    return [(x, gate, up, down), (x, gate, up, down, None, None, None, "gelu_tanh")]


OPERATOR = Operator(
    "glu",
    "(Tensor x, Tensor w_gate, Tensor w_up, Tensor w_down, Tensor? b_gate=None, Tensor? b_up=None, "
    "Tensor? b_down=None, str activation='silu') -> Tensor",
    reference,
    fake,
    traffic,
    examples,
)
