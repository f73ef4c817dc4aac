"""A program's graph made ready for the exporter: computed in float32, its operators as ONNX nodes.

Only the weights keep their dtype: a node casts them where they are used, so the file is no larger than the model.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from dipc.errors import UnsupportedModel
from dipc.ir import operators
from dipc.ir.onnx_form import OnnxForm
from dipc.ir.operator import argument, has_argument
from dipc.ir.program import Port, Program, TensorType
from dipc.ops.glu import ACTIVATIONS

HALF = (torch.float16, torch.bfloat16)
# Arguments of dipc's operators that ONNX operators take as they are stored.
STORED = ("weight", "units", "codes", "scales", "zeros", "minima", "values", "kept")
_ATEN = torch.ops.aten


def in_float32(program: Program) -> Program:
    """The program with all its arithmetic and its ports in float32; weights keep the dtype they are stored in."""
    after = program.replace(graph=program.edit())
    halves = {name for name, weight in program.weights.items() if weight.dtype in HALF}
    for node in list(after.graph.nodes):
        if node.op == "get_attr" and node.target in halves:
            _widen_uses(after.graph, node)
        elif node.op == "call_function":
            node.args, node.kwargs = tree_map_only(
                torch.dtype, lambda d: torch.float32 if d in HALF else d, (node.args, node.kwargs)
            )
    return after.replace(inputs=tuple(_float32_port(p) for p in program.inputs))


def _float32_port(port: Port) -> Port:
    if port.type.dtype not in ("float16", "bfloat16"):
        return port
    return dataclasses.replace(port, type=TensorType("float32", port.type.shape))


def _widen_uses(graph: fx.Graph, weight: fx.Node) -> None:
    """Cast a stored weight where ATen computes with it; a looked-up row is cast after the table, not the table."""
    users = [user for user in weight.users if not _takes_as_stored(user, weight)]
    tables = [user for user in users if user.target is _ATEN.embedding.default]
    for user in tables:
        with graph.inserting_after(user):
            wide = graph.call_function(_ATEN.to.dtype, (user, torch.float32))
        user.replace_all_uses_with(wide, delete_user_cb=lambda u, wide=wide: u is not wide)  # type: ignore[misc]
    others = [user for user in users if user not in tables]
    if others:
        with graph.inserting_after(weight):
            wide = graph.call_function(_ATEN.to.dtype, (weight, torch.float32))
        for user in others:
            user.replace_input_with(weight, wide)


def _takes_as_stored(user: fx.Node, weight: fx.Node) -> bool:
    return operators.operator_of(user.target) is not None and any(
        has_argument(user, name) and argument(user, name) is weight for name in STORED
    )


def expand_glus(program: Program) -> Program:
    """The program with each `glu` as linears, an activation and a product: standard operators, each fast by itself."""
    after = program.replace(graph=program.edit())
    graph = after.graph
    for node in after.nodes_of(operators.target("glu")):  # type: ignore[arg-type]
        x, activation = argument(node, "x"), argument(node, "activation")
        target, options = ACTIVATIONS[activation]
        with graph.inserting_before(node):
            gate, up = (
                graph.call_function(_ATEN.linear.default, (x, argument(node, f"w_{n}"), argument(node, f"b_{n}")))
                for n in ("gate", "up")
            )
            active = graph.call_function(target, (gate,), dict(options))
            hidden = graph.call_function(_ATEN.mul.Tensor, (active, up))
            weights = (argument(node, "w_down"), argument(node, "b_down"))
            down = graph.call_function(_ATEN.linear.default, (hidden, *weights))
        node.replace_all_uses_with(down)
        graph.erase_node(node)
    return after


def lowered(program: Program) -> tuple[fx.GraphModule, list[OnnxForm]]:
    """The graph as a module that `torch.export` can follow into ONNX, and the forms of the operators it calls.

    Raises:
        UnsupportedModel: an operator has no ONNX form.
    """
    graph = program.edit()
    forms: dict[str, OnnxForm] = {}
    for node in list(graph.nodes):
        operator = operators.operator_of(node.target) if node.op == "call_function" else None
        if operator is None:
            continue
        if operator.onnx is None:
            raise UnsupportedModel(
                f"{program.info.name}: the operator {operator.name} at {node.name} has no ONNX form, so the program "
                "cannot be exported; give it one (dipc/ops/README.md) or compile without it"
            )
        forms[operator.name] = operator.onnx
        names = [a.name for a in operator.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        with graph.inserting_before(node):
            new = graph.call_function(operator.onnx.to_onnx, (), given)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return fx.GraphModule(dict(program.weights), graph, class_name="Program"), list(forms.values())
