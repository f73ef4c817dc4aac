"""The last steps to a file: function bodies, 4-bit types, the names of dynamic sizes, and writing it in pieces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from dipc.backends.onnx.functions import functions
from dipc.ir.onnx_form import DOMAIN, DOMAIN_VERSION, OnnxForm
from dipc.ir.program import Program
from dipc.ir.weight_parts import values_per_entry
from dipc.version import __version__

EXTERNAL_DATA_BYTES = 2**27
"""From so many bytes on, weights have a file of their own: one message is in memory twice when it is written."""
WIDENED_BYTES = 2**26
"""So they have from so many bytes in 16-bit floats on: ONNX Runtime widens these as it opens a model, and would hold
embedded ones in memory as well, where it maps a file of weights."""


def finish(model: ir.Model, program: Program, forms: Sequence[OnnxForm], metadata: Mapping[str, str]) -> dict[str, int]:
    """Complete a translated model in place; returns how often it calls each operator of `ai.dipc`."""
    use_uint4(model, {name for name, count in values_per_entry(program.graph).items() if count == 2})
    calls = add_functions(model, forms)
    _name_sizes(model, program)
    _forget_the_exporter(model)
    model.producer_name, model.producer_version = "dipc", __version__
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return calls


def add_functions(model: ir.Model, forms: Sequence[OnnxForm]) -> dict[str, int]:
    """Append the body of every operator of `ai.dipc` that the model calls; returns how often it calls each."""
    calls = Counter(node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN)
    for proto in functions(calls, forms):
        function = ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function
    if calls:
        model.opset_imports[DOMAIN] = DOMAIN_VERSION
    return dict(sorted(calls.items()))


def use_uint4(model: ir.Model, names: Collection[str]) -> None:
    """Turn initializers of two codes to a byte, uint8 [R, C / 2], into UINT4 [R, C]: the bytes are the same."""
    for name in names:
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None:
            continue
        codes = value.const_value.numpy()
        shape = ir.Shape([codes.shape[0], 2 * codes.shape[1]])
        value.const_value = ir.PackedTensor(codes, ir.DataType.UINT4, shape=shape, name=name)
        value.shape, value.dtype = shape, ir.DataType.UINT4


def _name_sizes(model: ir.Model, program: Program) -> None:
    """Call the dynamic sizes `seq` and `past`, as the program's ports do, wherever they or their sums occur."""
    names: dict[str, str] = {}
    for value, port in zip(model.graph.inputs, program.inputs, strict=True):
        for dim, extent in zip(value.shape or (), port.type.shape, strict=True):
            if isinstance(extent, str) and isinstance(dim, ir.SymbolicDim) and dim.value:
                names[dim.value] = extent
    pattern = re.compile("|".join(rf"\b{re.escape(n)}\b" for n in names) or r"(?!)")
    for value in _values(model):
        if value.shape is not None:
            dims = [d if isinstance(d, int) else d.value for d in value.shape]
            value.shape = ir.Shape([pattern.sub(lambda m: names[m[0]], d) if isinstance(d, str) else d for d in dims])


def _values(model: ir.Model) -> list[ir.Value]:
    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    return [*model.graph.inputs, *model.graph.initializers.values(), *made]


def _forget_the_exporter(model: ir.Model) -> None:
    """Leave out what the exporter notes of source files: it says nothing about the model, and names local paths."""
    everything: list[Any] = [model, model.graph, *_values(model), *model.graph.all_nodes(), *model.functions.values()]
    for item in everything:
        item.metadata_props.clear()
        item.doc_string = None


def write(model: ir.Model, path: Path, external_data_bytes: int) -> None:
    """Save and check a model; large ones with their weights in `NAME.data` beside it, written tensor by tensor."""
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    halves = sum(w.nbytes for w in weights if w.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16))
    apart = sum(w.nbytes for w in weights) >= external_data_bytes or halves >= WIDENED_BYTES
    ir.save(model, path, external_data=f"{path.name}.data" if apart else None)
    onnx.checker.check_model(str(path))
