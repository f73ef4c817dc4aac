"""`packed_gather_glu`: gate and up of a gated MLP in one product; a unit's two columns are fetched together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import Operator, Read
from dipc.ops import _packed as packed
from dipc.ops import _packed_onnx as packed_onnx
from dipc.ops._packed import PackedMatrix
from dipc.ops.glu import ACTIVATIONS


def reference(
    x: Tensor,
    mask: Tensor,
    matrix: PackedMatrix,
    bias_gate: Tensor | None = None,
    bias_up: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """act(z[:F] + b_gate) * (z[F:] + b_up) with z as in `packed_gather_linear`, in float32.

    x [..., U], mask bool[..., U], W [U, 2 F] (of a unit its gate column, then its up column) -> [..., F].
    """
    bias, z = _joined(bias_gate, bias_up, matrix), matrix.times(torch.where(mask, x, 0))
    gate, up = (z if bias is None else z + bias).chunk(2, -1)
    act, options = ACTIVATIONS[activation]
    hidden: Tensor = act(gate, **options) * up
    return hidden.to(x.dtype)


def kernel(
    x: Tensor,
    mask: Tensor,
    matrix: PackedMatrix,
    bias_gate: Tensor | None = None,
    bias_up: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """The native product where it covers the case, else the reference."""
    bias = _joined(bias_gate, bias_up, matrix)
    hidden = packed.call_native(native.gather_glu, x, mask, matrix, bias, activation)
    if hidden is None:
        return reference(x, mask, matrix, bias_gate, bias_up, activation)
    return hidden


def _joined(gate: Tensor | None, up: Tensor | None, matrix: PackedMatrix) -> Tensor | None:
    """Both biases as that of the bundled matrix, [2 F]."""
    if gate is None and up is None:
        return None
    nothing = torch.zeros(matrix.shape[1] // 2, device=matrix.units.device)
    return torch.cat([nothing if b is None else b.float() for b in (gate, up)])


def fake(
    x: Tensor,
    mask: Tensor,
    matrix: PackedMatrix,
    bias_gate: Tensor | None = None,
    bias_up: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """[..., U] -> [..., F]."""
    count, length = matrix.shape
    if activation not in ACTIVATIONS or length % 2:
        raise ValueError(f"activation {activation!r} and units of {length} values do not fit a gate and an up column")
    packed.check_fit(x, mask, matrix, count, (bias_gate, length // 2), (bias_up, length // 2))
    return x.new_empty(*x.shape[:-1], length // 2)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """The kept units, gate and up together."""
    return packed.read_of(node)


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """U units of a gate and an up column of about U + 3 values, in every format, with every activation."""
    x = torch.randn(1, tokens, units, generator=generator)
    mask = torch.rand(1, tokens, units, generator=generator) < 0.5
    half = packed.even(units + 3)
    gate, up = torch.randn(2, half, generator=generator)
    matrices = packed.example_matrices(generator, units, 2 * half)
    odd = torch.randn(units, 2 * (half - 1), generator=generator)
    biases = ((None, None), (gate, up), (None, up))
    coded = packed.example_minima(generator, units, 2 * half)
    return [
        *((x, mask, *m.tensors, *biases[i % 3], *m.format) for i, m in enumerate(matrices)),
        *((x, mask, *m.tensors, gate, up, *m.format, "silu", m.minima) for m in coded),
        *((x, mask, odd, None, None, None, None, 0, 0, 0, activation) for activation in ACTIVATIONS),
        (x.bfloat16(), mask, odd.bfloat16()),
        (x, torch.ones_like(mask), odd),
        (x, torch.zeros_like(mask), odd),
    ]


# Activation -> the ONNX operator's name, and its steps from `gate` to `active`.
ONNX_ACTIVATIONS = {
    "silu": (
        "PackedGatherSwiGlu",
        """
    opened = Sigmoid (gate)
    active = Mul (gate, opened)""",
    ),
    "gelu": (
        "PackedGatherGeGlu",
        """
    root = Constant <value_float = 0.7071067811865476> ()
    scaled = Mul (gate, root)
    curve = Erf (scaled)
    one = Constant <value_float = 1.0> ()
    raised = Add (curve, one)
    half = Constant <value_float = 0.5> ()
    opened = Mul (raised, half)
    active = Mul (gate, opened)""",
    ),
    "gelu_tanh": (
        "PackedGatherGeGluTanh",
        """
    three = Constant <value_float = 3.0> ()
    cube = Pow (gate, three)
    small = Constant <value_float = 0.044715> ()
    part = Mul (cube, small)
    sum = Add (gate, part)
    root = Constant <value_float = 0.7978845608028654> ()
    scaled = Mul (sum, root)
    curve = Tanh (scaled)
    one = Constant <value_float = 1.0> ()
    raised = Add (curve, one)
    half = Constant <value_float = 0.5> ()
    opened = Mul (raised, half)
    active = Mul (gate, opened)""",
    ),
    "relu": (
        "PackedGatherReGlu",
        """
    active = Relu (gate)""",
    ),
}

STEPS = """
    nothing = Constant <value_float = 0.0> ()
    kept = Where (mask, x, nothing)
    product = MatMul (kept, values)
    both = Add (product, bias)
    gate, up = Split <axis = -1, num_outputs = 2> (both){activation}
    hidden = Mul (active, up)
"""

BODIES = {
    onnx_name: body
    for name, activation in ONNX_ACTIVATIONS.values()
    for onnx_name, body in packed_onnx.bodies(name, "hidden", STEPS.format(activation=activation)).items()
}


def to_onnx(
    x: Tensor,
    mask: Tensor,
    matrix: PackedMatrix,
    bias_gate: Tensor | None = None,
    bias_up: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """The operator that the activation names, with the suffix of the format."""
    _, length = matrix.shape
    bias = packed_onnx.bias_of(_joined(bias_gate, bias_up, matrix), length)
    name, _ = ONNX_ACTIVATIONS[activation]
    return packed_onnx.node(name, x, mask, matrix, bias, (*x.shape[:-1], length // 2))


OPERATOR = Operator(
    "packed_gather_glu",
    packed.schema(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, BODIES),
    tolerance=packed.TOLERANCE,
)
