"""Check that a program fits together, and find its symbolic shapes: two runs on the meta device.

A call with (seq, past, past_window) = (7, 101, 53) and one with (11, 211, 83) compute no numbers, only shapes, so they
verify every operator's arguments in milliseconds. A dimension that is the same in both is a constant; one that is not
is the sum of `seq` and `past` or `past_window` that explains both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map_only

from dipc.errors import VerificationFailed
from dipc.ir.program import PAST, Port, Program, TensorType

PROBES = ({"seq": 7, "past": 101, "past_window": 53}, {"seq": 11, "past": 211, "past_window": 83})
SYMBOLS = {tuple(p[s] for p in PROBES): s for s in ("seq", *PAST)}
SYMBOLS |= {tuple(p["seq"] + p[s] for p in PROBES): f"seq+{s}" for s in PAST}


def torch_dtype(name: str) -> torch.dtype:
    """`float32` -> torch.float32."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise VerificationFailed(f"no dtype is called {name!r}")
    return dtype


def empty_port(port: Port, seq: int, past: int, device: str = "cpu", past_window: int | None = None) -> torch.Tensor:
    """The port's starting value, with the symbols of its shape set; `past_window` is `past` unless it is given."""
    sizes = {"seq": seq, "past": past, "past_window": past if past_window is None else past_window}
    shape = [sizes[s] if isinstance(s, str) else s for s in port.type.shape]
    return torch.full(shape, port.fill, dtype=torch_dtype(port.type.dtype), device=device)


def _probe(program: Program, sizes: dict[str, int]) -> list[Any]:
    """The value of every node on the meta device, in program order."""
    ports = iter([empty_port(p, **sizes, device="meta") for p in program.inputs])
    known: dict[Any, Any] = {}
    env: dict[fx.Node, Any] = {}
    values: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value: Any = next(ports)
        elif node.op == "get_attr":
            weight = program.weights[str(node.target)]
            value = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        elif node.op == "output":
            value = None
        else:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: env[n])
            args, kwargs = _on_meta(args), _on_meta(kwargs)
            try:
                value = _called(node.target, args, kwargs, known)
            except Exception as error:
                where = node.meta.get("module") or "the graph"
                raise VerificationFailed(f"{node.name} in {where}: {node.target}: {error}") from error
        env[node] = value
        values.append(value)
    return values


def _called(target: Any, args: Any, kwargs: Any, known: dict[Any, Any]) -> Any:
    """The result of a call on the meta device, from `known` where the same was asked before: layers are alike."""
    asked = (target, _signature(args), _signature(kwargs))
    if asked not in known:
        known[asked] = target(*args, **kwargs)
    return known[asked]


def _signature(tree: Any) -> Any:
    """All of an argument that a shape can depend on, hashable; equal numbers of different types are kept apart."""
    if isinstance(tree, torch.Tensor):
        return torch.Tensor, tree.shape, tree.stride(), tree.dtype
    if isinstance(tree, (list, tuple)):
        return type(tree), *map(_signature, tree)
    if isinstance(tree, dict):
        return dict, *((name, _signature(value)) for name, value in tree.items())
    return type(tree), tree


def _on_meta(tree: Any) -> Any:
    return tree_map_only(torch.device, lambda _: torch.device("meta"), tree)


def _type(a: Any, b: Any) -> Any:
    if isinstance(a, torch.Tensor):
        shape = tuple(x if x == y else SYMBOLS.get((x, y), "?") for x, y in zip(a.shape, b.shape, strict=True))
        return TensorType(str(a.dtype).removeprefix("torch."), shape)
    if isinstance(a, (tuple, list)):
        return tuple(_type(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int) and not isinstance(a, bool):
        return str(a) if a == b else SYMBOLS.get((a, b), "?")
    return None


def infer_types(program: Program) -> None:
    """Set `meta["type"]` on every node; VerificationFailed names the node whose operator does not fit its arguments."""
    with torch.no_grad():
        first, second = (_probe(program, sizes) for sizes in PROBES)
    for node, a, b in zip(program.graph.nodes, first, second, strict=True):
        node.meta["type"] = _type(a, b)


def verify_structure(program: Program) -> None:
    """The graph is well formed, its ports and outputs agree with it, and every shape fits."""
    graph = program.graph
    try:
        graph.lint()
    except Exception as error:
        raise VerificationFailed(f"the graph is malformed: {error}") from error
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    names = [p.name for p in program.inputs]
    if [n.name for n in placeholders] != names:
        raise VerificationFailed(f"placeholders {[n.name for n in placeholders]} are not the ports {names}")
    missing = [str(n.target) for n in graph.nodes if n.op == "get_attr" and n.target not in program.weights]
    if missing:
        raise VerificationFailed(f"the graph reads {missing[0]}, which is not among the weights")
    infer_types(program)
    output = next(n for n in graph.nodes if n.op == "output")
    if len(output.args[0]) != len(program.outputs):
        raise VerificationFailed(f"{len(output.args[0])} outputs where {len(program.outputs)} are declared")
    for name, node in zip(program.outputs[1:], output.args[0][1:], strict=True):
        port, got = program.port(name), node.meta["type"]
        grown = TensorType(port.type.dtype, tuple(f"seq+{s}" if s in PAST else s for s in port.type.shape))
        if got not in (port.type, grown):
            raise VerificationFailed(f"output {name} is {got}, but the port it becomes is {port.type}")
