"""ONNX Runtime's own operators for attention, norms and rotary embeddings, in a translated model.

`transformers.exporters` finds them. A norm that ONNX's checker would not know is written out again in the form that
ONNX Runtime itself fuses when it loads a model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

NORM = "SimplifiedLayerNormalization"


def fuse(model: ir.Model) -> None:
    """Fuse a model in place for ONNX Runtime on a CPU; it computes what it did."""
    from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

    fuse_for_onnxruntime(model, "cpu")
    for node in [n for n in model.graph.all_nodes() if n.op_type == NORM and n.domain == ""]:
        _write_out(node)


def _write_out(norm: ir.Node) -> None:
    """x / sqrt(mean(x^2) + epsilon) * scale: ONNX Runtime has this norm in ONNX's domain, where no standard has it."""
    x, scale, y = norm.inputs[0], norm.inputs[1], norm.outputs[0]
    tape = ir.tape.Tape()

    def constant(name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(name=f"{y.name}_{name}", const_value=ir.tensor(array))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        assert norm.graph is not None
        norm.graph.register_initializer(value)
        return value

    square = tape.op("Pow", [x, constant("two", np.array(2, np.float32))])
    mean = tape.op("ReduceMean", [square, constant("axes", np.array([-1]))], attributes={"keepdims": 1})
    epsilon = np.array(norm.attributes.get_float("epsilon", 1e-5), np.float32)
    root = tape.op("Sqrt", [tape.op("Add", [mean, constant("epsilon", epsilon)])])
    out = tape.op("Mul", [tape.op("Div", [x, root]), scale])
    out.shape, out.type, out.name = y.shape, y.type, y.name
    y.name = None
    graph = norm.graph
    assert graph is not None
    graph.insert_before(norm, tape.nodes)
    y.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
