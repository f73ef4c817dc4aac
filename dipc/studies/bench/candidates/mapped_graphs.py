"""Small ONNX graphs with large weights in a data file, as an exported model has them: mapped, not copied."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto
    from onnxruntime import InferenceSession

OPSET, IR_VERSION = 21, 10
ALIGNMENT = 4096

Inputs = Mapping[str, tuple[type[np.generic], Sequence[int]]]
"""Dtype and shape of a graph's inputs, by name."""


class MappedGraphs:
    """Graphs that take their weights from one data file, in a folder that is gone when the process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dipc-bench-")
        self._data = Path(self._folder.name) / "weights.bin"
        self._end = 0
        self._weights: dict[str, TensorProto] = {}
        self._graphs = 0

    def weight(self, name: str, array: NDArray[np.generic], kind: int | None = None, shape: Sequence[int] = ()) -> str:
        """Add a weight and return its name.

        Args:
            name: of the initializer.
            array: its bytes.
            kind: ONNX element type; by default the array's.
            shape: by default the array's.
        """
        from onnx import TensorProto, helper

        start = -(-self._end // ALIGNMENT) * ALIGNMENT
        with self._data.open("ab") as file:
            file.truncate(start)
            file.seek(start)
            np.ascontiguousarray(array).tofile(file)
        self._end = start + array.nbytes
        tensor = TensorProto(name=name, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype) if kind is None else kind
        tensor.dims.extend(shape or array.shape)
        for key, value in (("location", self._data.name), ("offset", start), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._weights[name] = tensor
        return name

    def session(
        self,
        nodes: Sequence[NodeProto],
        inputs: Inputs,
        outputs: Mapping[str, type[np.generic]],
        threads: int,
        library: str | None = None,
    ) -> InferenceSession:
        """Open a session over nodes that read the weights by name.

        Args:
            nodes: in order.
            inputs: of the graph.
            outputs: dtypes by name.
            threads: of the session.
            library: of custom operators.
        """
        import onnxruntime
        from onnx import helper, save

        def value(name: str, dtype: type[np.generic], shape: Sequence[int] | None) -> ValueInfoProto:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            list(nodes),
            "bench",
            [value(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [value(name, dtype, None) for name, dtype in outputs.items()],
            [tensor for name, tensor in self._weights.items() if name in read],
        )
        domains = {"": OPSET, **{node.domain: 1 for node in nodes if node.domain}}
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        self._graphs += 1
        path = Path(self._folder.name) / f"graph{self._graphs}.onnx"
        save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if library is not None:
            options.register_custom_ops_library(library)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
