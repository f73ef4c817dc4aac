"""The candidates that dipc is compared with: dense products as others compute them.

Each function sets one up in its own process (worker.py). Shapes: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from dipc.ops.select_topk import kernel as select_topk
from dipc.studies.bench.candidates.case import Answer, Case, Cases
from dipc.studies.bench.candidates.mapped_graphs import MappedGraphs
from dipc.studies.bench.candidates.mlp import (
    BITS,
    FLOATS,
    Mlp,
    MlpTask,
    case_name,
    copies_of,
    make_mlp,
    reference_outputs,
)

if TYPE_CHECKING:
    from onnx import NodeProto


def definitions(task: MlpTask) -> Cases:
    """Set up the MLP by dipc's definitions, dense and at each density: never timed, it checks all others."""

    def returns(output: Tensor) -> Callable[[int], Answer]:
        return lambda number: output[0].numpy()

    return {name: Case(returns(output)) for name, output in reference_outputs(task, make_mlp(task)).items()}


def torch_dense(task: MlpTask) -> Cases:
    """Set up torch's linear layers; with many tokens also the same products with masked inputs."""
    torch.set_num_threads(task.threads)
    mlp, dtype = make_mlp(task), FLOATS[task.format]
    layers = [_transposed(copy) for copy in copies_of(mlp, task.layers)]
    inputs = [x.to(dtype) for x in task.inputs()]

    def run(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], kept: tuple[int, int] | None) -> Tensor:
        gate, up, down = weights
        x = x if kept is None else torch.where(select_topk(x.abs(), kept[0]), x, 0)
        hidden = silu(linear(x, gate)) * linear(x, up)
        return linear(hidden if kept is None else torch.where(select_topk(hidden.abs(), kept[1]), hidden, 0), down)

    def at(kept: tuple[int, int] | None) -> Callable[[int], Answer]:
        def call(number: int) -> Answer:
            outputs = [run(inputs[(number + i) % len(inputs)], weights, kept) for i, weights in enumerate(layers)]
            return outputs[0][0].float().numpy()

        return call

    cases = {case_name(None): Case(at(None), task.layers, mlp.size_bytes())}
    if task.tokens > 1:
        cases |= {case_name(d): Case(at(task.kept(d)), task.layers, mlp.size_bytes()) for d in task.densities}
    return cases


def onnx_matmul(task: MlpTask) -> Cases:
    """Set up ONNX Runtime's MatMul, in float32."""
    mlp, graphs = make_mlp(task), MappedGraphs()
    nodes = []
    for i in range(task.layers):
        gate, up = (part.numpy() for part in mlp.gate_up.units.chunk(2, 1))
        down = np.asarray(mlp.down.units.numpy())
        names = graphs.weight(f"gate{i}", gate), graphs.weight(f"up{i}", up), graphs.weight(f"down{i}", down)
        nodes += _swiglu(i, [_matmul(name) for name in names])
    return _dense_session(task, graphs, nodes, mlp.size_bytes(), answers=True)


def onnx_nbits(task: MlpTask) -> Cases:
    """Set up ONNX Runtime's MatMulNBits in 8 bits (accuracy_level 4), with groups along the inputs."""
    mlp, graphs = make_mlp(dataclasses.replace(task, axis=0)), MappedGraphs()
    matrices = [_nbits(m.units, m.scales, m.bits, m.shape[1], task.group) for m in (mlp.gate_up, mlp.down)]
    size = sum(codes.nbytes + scales.nbytes for codes, scales in matrices)
    nodes = []
    for i in range(task.layers):
        (both, both_scales), (down, down_scales) = matrices
        f = task.d_ff
        parts = {"gate": (both[:f], both_scales[:f]), "up": (both[f:], both_scales[f:]), "down": (down, down_scales)}
        products = []
        for name, (codes, scales) in parts.items():
            weights = graphs.weight(f"{name}{i}", codes), graphs.weight(f"{name}{i}.scales", scales)
            inner = task.d_ff if name == "down" else task.d_model
            products.append(_matmul_nbits(weights, inner, len(codes), BITS[task.format], task.group))
        nodes += _swiglu(i, products)
    # With groups along the unit dipc's weights are others, which this operator cannot hold.
    return _dense_session(task, graphs, nodes, size, answers=task.axis == 0)


Product = Callable[[str, str], "NodeProto"]


def _dense_session(
    task: MlpTask, graphs: MappedGraphs, nodes: list[NodeProto], size_bytes: float, answers: bool
) -> Cases:
    shape = (task.tokens, task.d_model)
    inputs = {f"x{i}": (np.float32, shape) for i in range(task.layers)}
    session = graphs.session(nodes, inputs, {f"y{i}": np.float32 for i in range(task.layers)}, task.threads)
    xs = [x.numpy() for x in task.inputs()]

    def call(number: int) -> Answer:
        feeds = {f"x{i}": xs[(number + i) % len(xs)] for i in range(task.layers)}
        outputs: list[NDArray[np.float32]] = session.run(None, feeds)
        return outputs[0][0] if answers else None

    return {case_name(None): Case(call, task.layers, size_bytes)}


def _swiglu(layer: int, products: list[Product]) -> list[NodeProto]:
    from onnx.helper import make_node

    gate, up, down = products
    x, g, u, s, a, h, y = (f"{name}{layer}" for name in "xgusahy")
    return [
        gate(x, g),
        up(x, u),
        make_node("Sigmoid", [g], [s]),
        make_node("Mul", [g, s], [a]),
        make_node("Mul", [a, u], [h]),
        down(h, y),
    ]


def _matmul(weight: str) -> Product:
    from onnx.helper import make_node

    return lambda x, y: make_node("MatMul", [x, weight], [y])


def _matmul_nbits(weights: tuple[str, str], inner: int, outer: int, bits: int, group: int) -> Product:
    from onnx.helper import make_node

    options: dict[str, Any] = {"K": inner, "N": outer, "bits": bits, "block_size": group, "accuracy_level": 4}
    return lambda x, y: make_node("MatMulNBits", [x, *weights], [y], domain="com.microsoft", **options)


def _nbits(
    codes: Tensor, scales: Tensor | None, bits: int, length: int, group: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Lay unit-major codes [U, N] and scales [G, N] of G groups out for MatMulNBits: [N, G, bytes] and [N, G]."""
    assert scales is not None
    units = codes.shape[0]
    if bits == 4:
        # Pairs along N become pairs along U; the last group is filled up with the middle code.
        even, odd = codes & 15, codes >> 4
        plain = torch.stack([even, odd], -1).reshape(units, length)
    else:
        plain = codes
    blocks = -(-units // group)
    filled = torch.full((length, blocks * group), 1 << (bits - 1), dtype=torch.uint8)
    filled[:, :units] = plain.t()
    packed = filled[:, 0::2] | (filled[:, 1::2] << 4) if bits == 4 else filled
    return packed.reshape(length, blocks, -1).numpy(), scales.t().float().contiguous().numpy()


def _transposed(mlp: Mlp) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = mlp.gate_up.units.chunk(2, 1)
    return gate.t().contiguous(), up.t().contiguous(), mlp.down.units.t().contiguous()
