"""Move a program to the device that torch shall run it on; whoever runs it works where its weights are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from dipc.errors import UsageError
from dipc.ir.program import Program

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a device of it, else the CPU; `cuda:1` is the second one.

    Raises:
        UsageError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"no device {name!r}: choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return torch.device(name)


def device_of(program: Program) -> torch.device:
    """Where its weights are."""
    return next((w.device for w in program.weights.values()), torch.device("cpu"))


def place(program: Program, device: str | torch.device) -> Program:
    """The program, and the dense one that it is compared with, on a device; what both share is moved once.

    Raises:
        UsageError: no such device.
    """
    to = device if isinstance(device, torch.device) else choose_device(device)
    if to == device_of(program) or not program.info.has_weights:
        return program
    moved: dict[int, Tensor] = {}
    dense = program.dense and _placed(program.dense, to, moved)
    return _placed(program, to, moved).replace(dense=dense)


def _placed(program: Program, device: torch.device, moved: dict[int, Tensor]) -> Program:
    for weight in program.weights.values():
        if id(weight) not in moved:
            moved[id(weight)] = weight.to(device)
    graph = program.edit()
    for node in graph.nodes:
        node.args, node.kwargs = (
            map_aggregate(given, lambda value: device if isinstance(value, torch.device) else value)
            for given in (node.args, node.kwargs)
        )
    return program.replace(graph=graph, weights={n: moved[id(w)] for n, w in program.weights.items()})
