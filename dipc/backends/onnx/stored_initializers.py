"""Weights that a model file holds in 16 bits, as their checkpoint does, in a graph that computes in float32.

The last step of an export, so nothing that looks for patterns meets the casts. ONNX Runtime widens such weights once,
when it opens the file, and computes what it would have computed from a file twice as large.
"""

from __future__ import annotations

import json
import warnings

import onnx_ir as ir
import torch

from dipc.ir.program import ModelInfo
from dipc.ir.stored_dtype import stored_dtype

FORMATS = "dipc.formats"
"""Of the metadata: the dtypes that weights are stored in."""
_NARROW = {torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}


def narrow_initializers(model: ir.Model, info: ModelInfo) -> None:
    """Store a model's matrices, in place, in the dtypes that hold them exactly (`stored_dtype`), cast where they enter.

    A vector keeps its dtype: it takes next to nothing.
    """
    graph = model.graph
    casts: list[ir.Node] = []
    narrowed: list[ir.Value] = []
    for name, value in list(graph.initializers.items()):
        wide = value.const_value
        if wide is None or len(wide.shape) < 2 or wide.dtype != ir.DataType.FLOAT:
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            dtype = stored_dtype(name, torch.from_numpy(wide.numpy()), info)
        if dtype not in _NARROW:
            continue
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", ir.DataType.FLOAT)], name=f"{name}_cast")
        out = cast.outputs[0]
        out.name, out.shape, out.dtype = f"{name}_float32", value.shape, ir.DataType.FLOAT
        for node, place in [use for use in value.uses() if use[0] is not cast]:
            node.replace_input_with(place, out)
        value.const_value = _narrowed(wide, _NARROW[dtype])
        value.dtype = _NARROW[dtype]
        casts.append(cast)
        narrowed.append(value)
    if casts:
        graph.insert_before(graph[0], casts)
        formats = {
            *json.loads(model.metadata_props.get(FORMATS, "[]")),
            *(v.dtype.name.lower() for v in narrowed if v.dtype),
        }
        model.metadata_props[FORMATS] = json.dumps(sorted(formats))


def _narrowed(wide: ir.TensorProtocol, dtype: ir.DataType) -> ir.LazyTensor:
    """Values in fewer bits, which are made as they are written."""
    made = lambda: ir.tensor(wide.numpy().astype(dtype.numpy()), name=wide.name)  # noqa: E731
    return ir.LazyTensor(made, dtype, ir.Shape(wide.numpy().shape), name=wide.name)
