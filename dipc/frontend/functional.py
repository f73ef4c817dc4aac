"""An exported graph without writing: in-place operators become values, and what they wrote outside is known.

`torch.export` leaves `clamp_` or `copy_` where a model has them. A graph that writes cannot be rewritten safely, for
what a node stands for depends on when it is read. `run_decompositions` knows what aliases what and writes nothing, but
spells views out (`reshape` becomes `view` or `clone`), so a graph that writes nothing is left as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten


def functional(exported: Any) -> Any:
    """Return an exported program that computes the same and writes to no tensor."""
    if not any(_writes(node) for node in exported.graph.nodes):
        return exported
    after = exported.run_decompositions({})
    for node in after.graph.nodes:
        if node.target in (_ATEN.view.default, _ATEN._unsafe_view.default):
            node.target = _ATEN.reshape.default  # the trace chose by strides that a run need not have
        elif node.target is _ATEN._to_copy.default:
            node.target = _ATEN.to.dtype
            node.args, node.kwargs = (node.args[0], node.meta["val"].dtype), {}
    return after


def results(exported: Any) -> list[fx.Node]:
    """The outputs that the model returns, without those that say what became of a buffer or an input."""
    output = next(n for n in exported.graph.nodes if n.op == "output")
    specs = exported.graph_signature.output_specs
    return [node for node, spec in zip(output.args[0], specs, strict=True) if spec.kind.name == "USER_OUTPUT"]


def passed_on(node: fx.Node) -> Any:
    """The argument that a node passes on unchanged; None where it computes something.

    So do nodes that matter in training alone, that only assert (False: nothing reads them), and a copy over all of a
    tensor of the same type.
    """
    if node.target in (_ATEN.dropout.default, _ATEN.alias.default, _ATEN.lift_fresh_copy.default):
        return node.args[0]
    if node.target in (_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default):
        return False
    if node.target is _ATEN.copy.default:
        over, source = (getattr(a, "meta", {}).get("val") for a in node.args[:2])
        if over is not None and source is not None and over.shape == source.shape and over.dtype == source.dtype:
            return node.args[1]
    return None


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)
