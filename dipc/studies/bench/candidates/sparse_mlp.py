"""dipc's candidates: the fused MLP and its parts on the native kernels, called from torch and from ONNX Runtime.

Each function sets one up in its own process (worker.py). Shapes: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipc.ir import operators
from dipc.native.call import opened
from dipc.native.onnx_library import onnx_library_path
from dipc.ops._packed import PackedMatrix
from dipc.ops.select_topk import kernel as select_topk
from dipc.studies.bench.candidates.case import Answer, Case, Cases
from dipc.studies.bench.candidates.mapped_graphs import Inputs, MappedGraphs
from dipc.studies.bench.candidates.mlp import Mlp, MlpTask, case_name, copies_of, make_mlp, matrix_bytes

if TYPE_CHECKING:
    from onnx import NodeProto
    from onnxruntime import InferenceSession

Values = NDArray[np.float32] | NDArray[np.bool_]

SELECTIONS = 16
"""Selections in one call of the part that only selects: one takes less time than the call around it."""

SUFFIX = {0: "", 4: "Int4", 8: "Int8"}


def torch_packed(task: MlpTask) -> Cases:
    """Set up select, packed_gather_glu, select, packed_gather_linear as `torch.ops.dipc`."""
    opened()
    torch.set_num_threads(task.threads)
    mlp = make_mlp(task)
    layers, inputs = list(copies_of(mlp, task.layers)), task.inputs()
    select, glu, linear = (_operator(name) for name in ("select_topk", "packed_gather_glu", "packed_gather_linear"))

    def at(kept: tuple[int, int]) -> Callable[[int], Answer]:
        def run(x: Tensor, layer: Mlp) -> Tensor:
            hidden = glu(x, select(x.abs(), kept[0]), *layer.gate_up.tensors, **_format(layer.gate_up))
            return linear(hidden, select(hidden.abs(), kept[1]), *layer.down.tensors, **_format(layer.down))

        def call(number: int) -> Answer:
            outputs = [run(inputs[(number + i) % len(inputs)], layer) for i, layer in enumerate(layers)]
            return outputs[0][0].numpy()

        return call

    kept_by_density = {density: task.kept(density) for density in task.densities}
    return {case_name(d): Case(at(kept), task.layers, mlp.size_bytes(kept)) for d, kept in kept_by_density.items()}


def onnx_packed(task: MlpTask, *, parts: bool) -> Cases:
    """Set up the same as nodes of the domain `ai.dipc`, on the library's kernels; on request its parts alone too."""
    graphs = _PackedGraphs(task, str(onnx_library_path()))
    cases = {case_name(d): graphs.whole(task.kept(d)) for d in task.densities}
    if parts:
        for density in task.densities:
            kept = task.kept(density)
            cases[case_name(density, "select")] = graphs.selection(kept)
            cases[case_name(density, "gate+up")] = graphs.gate_up(kept)
            cases[case_name(density, "down")] = graphs.down(kept)
    return cases


class _PackedGraphs:
    """Sessions over one data file, each with nodes for all layers of a task."""

    def __init__(self, task: MlpTask, library: str) -> None:
        self.task, self.library = task, library
        self.mlp, self.graphs = make_mlp(task), MappedGraphs()
        layers = range(task.layers)
        self.gate_ups = [self._weights(f"gate_up{i}", self.mlp.gate_up) for i in layers]
        self.downs = [self._weights(f"down{i}", self.mlp.down) for i in layers]
        self.xs: list[NDArray[np.float32]] = [x.numpy() for x in task.inputs()]
        generator = torch.Generator().manual_seed(task.seed + 2)
        shape = (task.tokens, task.d_ff)
        self.hiddens: list[NDArray[np.float32]] = [torch.randn(shape, generator=generator).numpy() for _ in self.xs]

    def whole(self, kept: tuple[int, int]) -> Case:
        nodes = []
        for i in range(self.task.layers):
            nodes += self._select(f"x{i}", f"m{i}", kept[0])
            nodes.append(self._gate_up(i))
            nodes += self._select(f"h{i}", f"n{i}", kept[1])
            nodes.append(self._down(i))
        inputs = {f"x{i}": (np.float32, self.xs[0].shape) for i in range(self.task.layers)}
        session = self._session(nodes, inputs, "y", np.float32)
        return Case(self._rotating(session, {"x": self.xs}), self.task.layers, self.mlp.size_bytes(kept))

    def selection(self, kept: tuple[int, int]) -> Case:
        nodes: list[NodeProto] = []
        inputs = {}
        for i in range(SELECTIONS):
            nodes += self._select(f"h{i}", f"n{i}", kept[1])
            inputs[f"h{i}"] = (np.float32, self.hiddens[0].shape)
        session = self._session(nodes, inputs, "n", np.bool_, SELECTIONS)
        return Case(self._rotating(session, {"h": self.hiddens}, SELECTIONS), SELECTIONS)

    def gate_up(self, kept: tuple[int, int]) -> Case:
        nodes = [self._gate_up(i) for i in range(self.task.layers)]
        size = matrix_bytes(self.mlp.gate_up, kept[0])
        return self._product(nodes, ("x", "m", "h"), self.xs, kept[0], size)

    def down(self, kept: tuple[int, int]) -> Case:
        nodes = [self._down(i) for i in range(self.task.layers)]
        size = matrix_bytes(self.mlp.down, kept[1])
        return self._product(nodes, ("h", "n", "y"), self.hiddens, kept[1], size)

    def _product(
        self,
        nodes: list[NodeProto],
        names: tuple[str, str, str],
        values: list[NDArray[np.float32]],
        kept: int,
        size_bytes: float,
    ) -> Case:
        """Make a case of one product per layer with masks that are given."""
        x, mask, y = names
        masks = [select_topk(torch.from_numpy(v).abs(), kept).numpy() for v in values]
        inputs: dict[str, tuple[type[np.generic], Sequence[int]]] = {}
        for i in range(self.task.layers):
            inputs |= {f"{x}{i}": (np.float32, values[0].shape), f"{mask}{i}": (np.bool_, masks[0].shape)}
        session = self._session(nodes, inputs, y, np.float32)
        return Case(self._rotating(session, {x: values, mask: masks}, answers=False), self.task.layers, size_bytes)

    def _rotating(
        self,
        session: InferenceSession,
        values: Mapping[str, Sequence[Values]],
        count: int | None = None,
        answers: bool = True,
    ) -> Callable[[int], Answer]:
        """Return a call that gives the next input to every copy."""
        copies, turns = count or self.task.layers, len(self.xs)

        def call(number: int) -> Answer:
            feeds = {f"{n}{i}": v[(number + i) % turns] for n, v in values.items() for i in range(copies)}
            outputs: list[NDArray[np.float32]] = session.run(None, feeds)
            return outputs[0][0] if answers and count is None else None

        return call

    def _session(
        self, nodes: list[NodeProto], inputs: Inputs, output: str, dtype: type[np.generic], count: int = 0
    ) -> InferenceSession:
        outputs = {f"{output}{i}": dtype for i in range(count or self.task.layers)}
        return self.graphs.session(nodes, inputs, outputs, self.task.threads, self.library)

    def _select(self, x: str, mask: str, k: int) -> list[NodeProto]:
        from onnx.helper import make_node

        score = f"{x}.score"
        chosen = make_node("SelectTopk", [score], [mask], domain="ai.dipc", k=k, site="")
        return [make_node("Abs", [x], [score]), chosen]

    def _gate_up(self, i: int) -> NodeProto:
        name = f"PackedGatherSwiGlu{SUFFIX[self.mlp.gate_up.bits]}"
        return self._packed(name, [f"x{i}", f"m{i}", *self.gate_ups[i]], f"h{i}", self.mlp.gate_up)

    def _down(self, i: int) -> NodeProto:
        name = f"PackedGatherLinear{SUFFIX[self.mlp.down.bits]}"
        return self._packed(name, [f"h{i}", f"n{i}", *self.downs[i]], f"y{i}", self.mlp.down)

    def _packed(self, name: str, inputs: list[str], output: str, matrix: PackedMatrix) -> NodeProto:
        from onnx.helper import make_node

        grouped: dict[str, Any] = {k: v for k, v in _format(matrix).items() if k != "bits"} if matrix.bits else {}
        return make_node(name, inputs, [output], domain="ai.dipc", **grouped)

    def _weights(self, name: str, matrix: PackedMatrix) -> list[str]:
        """Add the initializers of a matrix: units, scales and zeros where it has any, and a bias of zeros."""
        from onnx import TensorProto

        kinds = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
        kinds |= {torch.bfloat16: TensorProto.BFLOAT16, torch.uint8: TensorProto.UINT8}
        kind = TensorProto.UINT4 if matrix.bits == 4 else kinds[matrix.units.dtype]
        units = matrix.units.view(torch.uint8).numpy()
        found = [self.graphs.weight(name, units, kind, matrix.shape)]
        if matrix.scales is not None:
            middle = np.full((1, 1), 1 << (matrix.bits - 1), np.uint8)
            found.append(self.graphs.weight(f"{name}.scales", matrix.scales.numpy()))
            found.append(self.graphs.weight(f"{name}.zeros", middle))
        return [*found, self.graphs.weight(f"{name}.bias", np.zeros(matrix.shape[1], np.float32))]


def _operator(name: str) -> Callable[..., Tensor]:
    return operators.target(name)  # type: ignore[return-value]


def _format(matrix: PackedMatrix) -> dict[str, int]:
    return dict(zip(("bits", "group", "axis"), matrix.format, strict=True))
