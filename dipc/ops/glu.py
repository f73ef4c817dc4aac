"""`glu`: a whole gated MLP as one node, the canonical form that `outline-glu` makes and every method rewrites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.ir.operator import Operator, Read, argument, weight_read
from dipc.ir.signature import schema_of

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
    return linear(_hidden(x, w_gate, w_up, b_gate, b_up, activation), w_down, b_down)


def _hidden(
    x: Tensor, w_gate: Tensor, w_up: Tensor, b_gate: Tensor | None, b_up: Tensor | None, activation: str
) -> Tensor:
    act, options = ACTIVATIONS[activation]
    hidden: Tensor = act(linear(x, w_gate, b_gate), **options) * linear(x, w_up, b_up)
    return hidden


def hidden_units(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    b_gate: Tensor | None = None,
    b_up: Tensor | None = None,
    b_down: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """W_up x * act(W_gate x), what `w_down` multiplies; arguments as of the reference -> [..., F]."""
    return _hidden(x, w_gate, w_up, b_gate, b_up, activation)


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
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    matrices={"w_gate": "x", "w_up": "x", "w_down": hidden_units},
)
