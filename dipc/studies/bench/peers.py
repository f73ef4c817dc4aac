"""The contenders that dipc is compared with: dense products as others compute them.

Each function sets one up in its own process (worker.py). Shapes: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from dipc.ops.select_topk import kernel as select_topk
from dipc.studies.bench.case import Case, Cases
from dipc.studies.bench.mlp import BITS, FLOATS, Mlp, Task, case_name, layers_of, make_mlp, reference
from dipc.studies.bench.onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import NodeProto

Answer = NDArray[Any] | None


def definitions(**task: Any) -> Cases:
    """What the MLP gives by dipc's definitions, dense and at each density: never timed, it checks all others."""
    asked = Task(**task)
    found = reference(asked, make_mlp(asked))

    def returns(answer: Tensor) -> Callable[[int], Answer]:
        return lambda number: answer[0].numpy()

    return {name: Case(returns(answer)) for name, answer in found.items()}


def torch_dense(**task: Any) -> Cases:
    """torch's linear layers; with many tokens also the same products with masked inputs."""
    asked = Task(**task)
    torch.set_num_threads(asked.threads)
    made = make_mlp(asked)
    layers = [_transposed(mlp, FLOATS[asked.format]) for mlp in layers_of(made, asked.layers)]
    inputs = [x.to(FLOATS[asked.format]) for x in asked.inputs()]

    def run(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], kept: tuple[int, int] | None) -> Tensor:
        gate, up, down = weights
        x = x if kept is None else torch.where(select_topk(x.abs(), kept[0]), x, 0)
        hidden = silu(linear(x, gate)) * linear(x, up)
        return linear(hidden if kept is None else torch.where(select_topk(hidden.abs(), kept[1]), hidden, 0), down)

    def at(kept: tuple[int, int] | None) -> Callable[[int], Answer]:
        def call(number: int) -> Answer:
            found = [run(inputs[(number + i) % len(inputs)], weights, kept) for i, weights in enumerate(layers)]
            return found[0][0].float().numpy()

        return call

    cases = {case_name(None): Case(at(None), asked.layers, made.size_bytes())}
    if asked.tokens > 1:
        cases |= {case_name(d): Case(at(asked.kept(d)), asked.layers, made.size_bytes()) for d in asked.densities}
    return cases


def onnx_matmul(**task: Any) -> Cases:
    """ONNX Runtime's MatMul, in float32."""
    asked = Task(**task)
    made, file = make_mlp(asked), OnnxFile()
    nodes = []
    for i in range(asked.layers):
        gate, up = (part.numpy() for part in made.gate_up.units.chunk(2, 1))
        names = file.weight(f"gate{i}", gate), file.weight(f"up{i}", up), file.weight(f"down{i}", _down(made))
        nodes += _swiglu(i, [_matmul(name) for name in names])
    return _dense_session(asked, file, nodes, made.size_bytes(), answers=True)


def onnx_nbits(**task: Any) -> Cases:
    """ONNX Runtime's MatMulNBits, which multiplies in 8 bits (accuracy_level 4), with groups along the inputs."""
    asked = Task(**{**task, "axis": 0})
    made, file = make_mlp(asked), OnnxFile()
    matrices = [_nbits(m.units, m.scales, m.bits, m.shape[1], asked.group) for m in (made.gate_up, made.down)]
    size = sum(codes.nbytes + scales.nbytes for codes, scales in matrices)
    nodes = []
    for i in range(asked.layers):
        (both, both_scales), (down, down_scales) = matrices
        f = asked.d_ff
        parts = {"gate": (both[:f], both_scales[:f]), "up": (both[f:], both_scales[f:]), "down": (down, down_scales)}
        products = []
        for name, (codes, scales) in parts.items():
            weights = file.weight(f"{name}{i}", codes), file.weight(f"{name}{i}.scales", scales)
            inner = asked.d_ff if name == "down" else asked.d_model
            products.append(_matmul_nbits(weights, inner, len(codes), BITS[asked.format], asked.group))
        nodes += _swiglu(i, products)
    # With groups along the unit dipc's weights are others, which this operator cannot hold.
    return _dense_session(asked, file, nodes, size, answers=task["axis"] == 0)


Product = Callable[[str, str], "NodeProto"]


def _dense_session(task: Task, file: OnnxFile, nodes: list[NodeProto], size: float, answers: bool) -> Cases:
    shape = (task.tokens, task.d_model)
    inputs = {f"x{i}": (np.float32, shape) for i in range(task.layers)}
    session = file.session(nodes, inputs, {f"y{i}": np.float32 for i in range(task.layers)}, task.threads)
    xs = [x.numpy() for x in task.inputs()]

    def call(number: int) -> Answer:
        feeds = {f"x{i}": xs[(number + i) % len(xs)] for i in range(task.layers)}
        found: list[NDArray[Any]] = session.run(None, feeds)
        return found[0][0] if answers else None

    return {case_name(None): Case(call, task.layers, size)}


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


def _nbits(codes: Tensor, scales: Tensor | None, bits: int, length: int, group: int) -> tuple[Any, Any]:
    """Unit-major codes [U, N] and scales [G, N] of G groups as MatMulNBits takes them: [N, G, bytes] and [N, G]."""
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


def _transposed(mlp: Mlp, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = mlp.gate_up.units.chunk(2, 1)
    return gate.t().contiguous(), up.t().contiguous(), mlp.down.units.t().contiguous()


def _down(mlp: Mlp) -> NDArray[Any]:
    return np.asarray(mlp.down.units.numpy())
