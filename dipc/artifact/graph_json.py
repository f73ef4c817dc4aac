"""A program's graph as JSON: data only, so that reading one runs nothing that the file brings along.

Why not torch's `.pt2`: `torch.export.load` unpickles, and hands shape expressions to sympy's parser, which evaluates
them. Both can run code from the file. Here a node is a name, an operator by name, and arguments that are numbers,
text, dtypes or earlier nodes. Types are not stored: `dipc.ir.verify.verify_structure` finds them again.

An operator is taken from an allow-list, never looked up freely: functional ATen operators that the dispatcher knows,
dipc's own (with those of loaded plug-ins), and arithmetic from Python's `operator`. Everything that torch.fx writes
into the Python source of a compiled graph (node names, weight names, keywords) must be a plain identifier here.

    {"nodes": [{"name": "linear", "op": "call_function", "target": "aten.linear.default",
                "args": [{"node": "x"}, {"node": "w"}], "kwargs": {}, "module": "model.lm_head"}, ...],
     "inputs": [{"name": "input_ids", "kind": "tokens", "dtype": "int64", "shape": [1, "seq"], "fill": 0}, ...],
     "outputs": ["logits", ...]}

A port of a layer with a sliding window also has its "window".

What JSON lacks is an object with one key: `{"node": name}`, `{"tuple": [...]}`, `{"float": "inf"}`,
`{"dtype": "float32"}`, `{"device": "cpu"}`, `{"layout": "strided"}`, `{"memory_format": "contiguous_format"}`.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import fx

from dipc.artifact.graph_names import check_weight_names, resolve_target, target_text
from dipc.documents import JsonObject, first_problem
from dipc.errors import BadFile, DipcError, UnsupportedModel
from dipc.ir.program import PAST, Port, PortKind, Program, TensorType

MAX_NODES = 1_000_000
MAX_DEPTH = 8
MAX_INT = 2**63 - 1

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CONSTANTS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
_NOT_FINITE = ("inf", "-inf", "nan")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Node(_Strict):
    name: str
    op: Literal["placeholder", "get_attr", "call_function", "output"]
    target: str = ""
    args: list[Any] = []
    kwargs: JsonObject = {}
    module: str | None = None


class _Port(_Strict):
    name: str
    kind: PortKind
    dtype: str
    shape: list[int | str]
    fill: bool | int | float = 0
    window: int | None = None


class _Graph(_Strict):
    nodes: list[_Node]
    inputs: list[_Port]
    outputs: list[str]


def graph_to_json(program: Program) -> JsonObject:
    """The program's graph, ports and output names, ready for `json.dumps`.

    Raises UnsupportedModel for an operator or an argument that an artifact cannot hold, naming the node.
    """
    try:
        nodes = [_encode_node(node) for node in program.graph.nodes]
    except BadFile as error:
        raise UnsupportedModel(f"{program.info.name} cannot be saved: {error}") from error
    return {"nodes": nodes, "inputs": [_encode_port(p) for p in program.inputs], "outputs": list(program.outputs)}


def _encode_port(port: Port) -> JsonObject:
    shape: list[object] = list(port.type.shape)
    item: JsonObject = {"name": port.name, "kind": port.kind, "dtype": port.type.dtype, "shape": shape}
    return item | {"fill": port.fill} | ({} if port.window is None else {"window": port.window})


def graph_from_json(data: Mapping[str, object]) -> tuple[fx.Graph, tuple[Port, ...], tuple[str, ...]]:
    """The inverse of `graph_to_json`; node types are left to `verify_structure`.

    Raises BadFile, in one line that names the place, for everything that is not such a graph.
    """
    try:
        file = _Graph.model_validate(data)
    except ValidationError as error:
        raise BadFile(first_problem(error)) from None
    except RecursionError:
        raise BadFile("nested too deeply") from None
    if len(file.nodes) > MAX_NODES:
        raise BadFile(f"{len(file.nodes)} nodes; at most {MAX_NODES} are read")
    if not file.nodes or [i for i, n in enumerate(file.nodes) if n.op == "output"] != [len(file.nodes) - 1]:
        raise BadFile("the graph must end in its one output node")
    graph, made = fx.Graph(), dict[str, fx.Node]()
    for item in file.nodes:
        try:
            made[item.name] = _decode_node(item, graph, made)
        except DipcError as error:
            raise BadFile(f"node {item.name[:80]!r}: {error}") from None
    check_weight_names({str(n.target) for n in graph.nodes if n.op == "get_attr"})
    result = graph.output_node().args[0]
    if not isinstance(result, tuple) or not all(isinstance(r, fx.Node) for r in result):
        raise BadFile("the output node must hold one tuple of nodes")
    outputs = tuple(file.outputs)
    ports = {p.name for p in file.inputs}
    if outputs[:1] != ("logits",) or not ports.issuperset(outputs[1:]):
        raise BadFile("outputs must be logits and then names of inputs")
    return graph, tuple(map(_port, file.inputs)), outputs


def _encode_node(node: fx.Node) -> JsonObject:
    data: JsonObject = {"name": node.name, "op": node.op}
    if node.op == "call_function":
        data["target"] = target_text(node.target)
    elif node.op == "get_attr":
        check_weight_names([str(node.target)])
        data["target"] = str(node.target)
    if node.args:
        data["args"] = [_encode(a) for a in node.args]
    if node.kwargs:
        data["kwargs"] = {key: _encode(value) for key, value in node.kwargs.items()}
    if "module" in node.meta:
        data["module"] = node.meta["module"]
    return data


def _encode(value: object) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if type(value) is tuple:
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, of in _CONSTANTS.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    raise BadFile(f"an argument of type {type(value).__name__}")


def _decode_node(item: _Node, graph: fx.Graph, made: Mapping[str, fx.Node]) -> fx.Node:
    _check_names(item, made)
    if item.op in ("placeholder", "get_attr") and (item.args or item.kwargs):
        raise BadFile(f"a {item.op} node takes no arguments")
    target: Any = item.target if item.op == "get_attr" else item.name
    args = tuple(_decode(a, made) for a in item.args)
    kwargs = {key: _decode(value, made) for key, value in item.kwargs.items()}
    if item.op == "call_function":
        target = resolve_target(item.target)
        _check_arguments(target, item)
    elif item.op == "output":
        target = "output"
        if len(args) != 1 or kwargs:
            raise BadFile("an output node takes one argument")
    if item.op in ("placeholder", "output") and item.target:
        raise BadFile(f"a {item.op} node has no target")
    node = graph.create_node(item.op, target, args, kwargs, name=item.name)
    if node.name != item.name:
        raise BadFile("its name is reserved in Python")
    if item.module is not None:
        node.meta["module"] = item.module
    return node


def _check_names(item: _Node, made: Mapping[str, fx.Node]) -> None:
    if item.name in made:
        raise BadFile("a second node of that name")
    if not _IDENTIFIER.fullmatch(item.name) or keyword.iskeyword(item.name):
        raise BadFile("its name is no identifier")
    if item.module is not None and not item.module.isprintable():
        raise BadFile("its module is no printable text")


def _check_arguments(target: object, item: _Node) -> None:
    if not isinstance(target, torch._ops.OpOverload):
        # Numbers and nodes only: a list or text times a number is a way to fill the memory.
        plain = all(type(a) in (bool, int, float) or (isinstance(a, dict) and "node" in a) for a in item.args)
        if item.kwargs or not plain:
            raise BadFile(f"{item.target} takes numbers and nodes")
        return
    known = {a.name for a in target._schema.arguments}
    for key in item.kwargs:
        if key not in known or keyword.iskeyword(key):
            raise BadFile(f"{item.target} has no argument {key[:80]!r}")


def _decode(value: object, made: Mapping[str, fx.Node], depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise BadFile("its arguments are nested too deeply")
    if isinstance(value, list):
        return [_decode(v, made, depth + 1) for v in value]
    if isinstance(value, dict):
        if len(value) != 1:
            raise BadFile("an argument is an object without exactly one key")
        return _decode_tagged(*next(iter(value.items())), made, depth)
    if isinstance(value, str) and not value.isprintable():
        raise BadFile("an argument is no printable text")
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise BadFile("an argument is a number beyond 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadFile("an argument is a number beyond a double")
    return value


def _decode_tagged(kind: str, value: object, made: Mapping[str, fx.Node], depth: int) -> Any:
    if kind == "tuple" and isinstance(value, list):
        return tuple(_decode(v, made, depth + 1) for v in value)
    if not isinstance(value, str):
        raise BadFile(f"an argument is a {kind[:20]!r} that cannot be read")
    if kind == "node":
        if value not in made:
            raise BadFile(f"no earlier node is called {value[:80]!r}")
        return made[value]
    if kind == "float" and value in _NOT_FINITE:
        return float(value)
    if kind == "device":
        return _device(value)
    found = getattr(torch, value, None) if kind in _CONSTANTS and _IDENTIFIER.fullmatch(value) else None
    if found is None or not isinstance(found, _CONSTANTS[kind]):
        raise BadFile(f"an argument is no known {kind[:20]!r}: {value[:80]!r}")
    return found


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError:
        raise BadFile(f"no device is called {text[:80]!r}") from None


def _port(item: _Port) -> Port:
    plain = all(s in ("seq", *PAST) if isinstance(s, str) else 0 <= s <= MAX_INT for s in item.shape)
    if not plain or not isinstance(getattr(torch, item.dtype, None), torch.dtype):
        raise BadFile(f"input {item.name[:80]!r}: its type cannot be read")
    port = Port(item.name, item.kind, TensorType(item.dtype, tuple(item.shape)), item.fill, item.window)
    if port.window is not None and (port.past_axis is None or not 1 < port.window <= MAX_INT):
        raise BadFile(f"input {item.name[:80]!r}: its window of {port.window} positions cannot be")
    return port
