"""One node of the domain `ai.dipc` with the native library's kernels, and what its product means in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

import dipc

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
erf = np.vectorize(math.erf, otypes=[float])
GLUS: Mapping[str, Callable[[Any], Any]] = {
    "PackedGatherSwiGlu": lambda z: z / (1 + np.exp(-z)),
    "PackedGatherGeGlu": lambda z: 0.5 * z * (1 + erf(z / np.sqrt(2))),
    "PackedGatherGeGluTanh": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "PackedGatherReGlu": lambda z: np.maximum(z, 0),
}
PRODUCTS = ("PackedGatherLinear", "PackedRowLinear", *GLUS)


def tensor(name: str, kind: int, dims: tuple[int, ...], data: bytes) -> Any:
    return helper.make_tensor(name, kind, dims, data, raw=True)


def session(
    operator: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, int],
    attributes: Mapping[str, Any] | None = None,
    functions: list[Any] | None = None,
    library: bool = True,
) -> Any:
    """One node; an input is an array, fed at run time with symbolic dimensions, or a TensorProto, kept in the model."""
    node = helper.make_node(operator, list(inputs), list(outputs), domain="ai.dipc", **(attributes or {}))
    fed = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [f"{name}_{i}" for i in range(value.ndim)]
        )
        for name, value in inputs.items()
        if isinstance(value, np.ndarray)
    ]
    kept = [value for value in inputs.values() if not isinstance(value, np.ndarray)]
    graph = helper.make_graph(
        [node], "one", fed, [helper.make_tensor_value_info(o, kind, None) for o, kind in outputs.items()], kept
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.dipc", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 2
    if library:
        settings.register_custom_ops_library(str(dipc.onnx_library_path()))
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def run(operator: str, inputs: Mapping[str, Any], outputs: Mapping[str, int], **attributes: Any) -> list[Any]:
    made = session(operator, inputs, outputs, attributes)
    found: list[Any] = made.run(None, {n: v for n, v in inputs.items() if isinstance(v, np.ndarray)})
    return found


class Units:
    """A unit-major matrix [U, N] in one format: what the operator is given and what it means in float32.

    Formats are those of floats, or `int8` or `int4`, whose scales may be `wide`, of 32 bits, or come with `minima`.
    """

    def __init__(self, kind: str, count: int, length: int, group: int = 5, axis: int = 0, middle: bool = False) -> None:
        rng = np.random.default_rng(count * length + axis)
        self.attributes: dict[str, int] = {}
        self.ending = ""
        shape = (count, length)
        values = rng.standard_normal(shape).astype(np.float32)
        if kind == "float32":
            self.tensors, self.meaning = {"units": tensor("units", FLOAT, shape, values.tobytes())}, values
        elif kind == "float16":
            half = values.astype(np.float16)
            self.tensors = {"units": tensor("units", TensorProto.FLOAT16, shape, half.tobytes())}
            self.meaning = half.astype(np.float32)
        elif kind == "bfloat16":
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            self.tensors = {"units": tensor("units", TensorProto.BFLOAT16, shape, bits.tobytes())}
            self.meaning = (bits.astype(np.uint32) << 16).view(np.float32)
        else:
            self._quantise(kind, shape, group, axis, middle, rng)

    def _quantise(
        self, kind: str, shape: tuple[int, int], group: int, axis: int, middle: bool, rng: np.random.Generator
    ) -> None:
        kind, _, tables = kind.partition(" ")
        self.ending, self.attributes = {"int8": "Int8", "int4": "Int4"}[kind], {"group": group, "axis": axis}
        levels = {"int8": 256, "int4": 16}[kind]
        codes = rng.integers(0, levels, shape, dtype=np.uint8)
        groups = tuple(-(-n // group) if i == axis else n for i, n in enumerate(shape))
        scales = (rng.random(groups) * 0.2).astype(np.float32 if "wide" in tables else np.float16)
        zeros = rng.integers(0, levels, groups, dtype=np.uint8)
        if middle:
            zeros = np.full((1, 1), levels // 2, np.uint8)
        packed = codes if kind == "int8" else codes[:, 0::2] | codes[:, 1::2] << 4
        stored = TensorProto.UINT8 if kind == "int8" else TensorProto.UINT4
        self.tensors = {"units": tensor("units", stored, shape, packed.tobytes()), "scales": scales, "zeros": zeros}

        def spread(grouped: Any) -> Any:
            widened = np.broadcast_to(grouped, groups).repeat(group, axis).astype(np.float32)
            return widened[: shape[0], : shape[1]]

        if "minima" not in tables:
            self.meaning = (codes - spread(zeros)) * spread(scales)
            return
        self.ending += "Minima"
        minima = (rng.standard_normal(groups) * levels / 20).astype(scales.dtype)
        self.tensors = {"units": self.tensors["units"], "scales": scales, "minima": minima}
        self.meaning = codes * spread(scales) + spread(minima)


def expected(operator: str, x: Floats, mask: Bools, meaning: Floats, bias: Floats) -> NDArray[np.float64]:
    wide = meaning.astype(np.float64)
    if operator == "PackedRowLinear":
        return np.where(mask, x @ wide.T + bias, 0.0)
    y: NDArray[np.float64] = np.where(mask, x, 0.0) @ wide + bias
    if operator not in GLUS:
        return y
    gate, up = np.split(y, 2, axis=-1)
    return GLUS[operator](gate) * up  # type: ignore[no-any-return]


def check(operator: str, units: Units, y: Floats, x: Floats, mask: Bools, bias: Floats) -> None:
    """Each sum may be off by a small part of what its terms add up to without their signs.

    Float kernels round as float32 sums do; the integer kernels round activations to 15 bits of a group's largest.
    """
    wanted = expected(operator, x, mask, units.meaning, bias)
    part = 2e-4 if units.attributes else 3e-6
    slack = part * expected(operator if operator not in GLUS else "", *map(np.abs, (x, mask, units.meaning, bias)))
    if operator in GLUS:
        gate, up = np.split(expected("", x, mask, units.meaning, bias), 2, axis=-1)
        off_gate, off_up = np.split(slack, 2, axis=-1)
        slack = 1.2 * off_gate * (np.abs(up) + off_up) + np.abs(GLUS[operator](gate)) * off_up
    assert y.dtype == np.float32 and y.shape == wanted.shape
    assert (np.abs(y - wanted) <= slack + 1e-6).all()


def product(operator: str, units: Units, lead: tuple[int, ...], density: float = 0.5) -> tuple[Any, dict[str, Any]]:
    """The inputs of a product with random activations of shape [*lead, ...]."""
    rng = np.random.default_rng(len(lead) + sum(lead))
    count, length = units.meaning.shape
    by_row = operator == "PackedRowLinear"
    shape: tuple[int, ...] = (*lead, length if by_row else count)
    x = rng.standard_normal(shape).astype(np.float32)
    mask = rng.random((*lead, count)) < density
    bias = rng.standard_normal((count if by_row else length,)).astype(np.float32)
    return (x, mask, bias), {"x": x, "mask": mask, **units.tensors, "bias": bias}
