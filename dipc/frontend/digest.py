"""The digest of a model: it follows what changes a result, and nothing else.

So it is made of the captured graph, not of the config: `use_cache`, a padding token or the version that wrote a
checkpoint leave it as it is, and an epsilon, a rotary base or one weight do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import fx
from torch.fx.node import map_arg

from dipc.ir.program import Program

_SAMPLE = 4096


def model_digest(program: Program) -> str:
    """Return 16 hex digits of a captured program: graph, context, width, end tokens, form and content of weights.

    Of a weight's content it takes evenly spaced values and sums over all its bits, at the speed of memory.
    """
    info = program.info
    digest = hashlib.sha256()
    for port in program.inputs:
        digest.update(f"{port.name} {port.kind} {port.type} {port.fill}\n".encode())
    for line in _lines(program.graph):
        digest.update(f"{line}\n".encode())
    digest.update(f"{info.context} {info.weight_bits} {sorted(info.own_bits.items())} {info.eos_ids}\n".encode())
    for name in sorted({str(node.target) for node in program.graph.nodes if node.op == "get_attr"}):
        weight = program.weights[name]
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        if weight.device.type != "meta":
            digest.update(_content(weight.detach().contiguous().reshape(-1)))
    return digest.hexdigest()[:16]


def _lines(graph: fx.Graph) -> Iterator[str]:
    """Every node by its number, operator and arguments; nodes' names are the exporter's and say nothing."""
    numbers: dict[fx.Node, int] = {}
    for number, node in enumerate(graph.nodes):
        numbers[node] = number
        # What a padding token adds to a lookup matters to gradients alone.
        given = node.args[:2] if node.target is torch.ops.aten.embedding.default else node.args
        args, kwargs = map_arg((given, node.kwargs), lambda n: f"%{numbers[n]}")
        yield f"{node.op} {node.target} {args} {kwargs}"


def _content(flat: torch.Tensor) -> bytes:
    """Evenly spaced values, and the sums of all bits as whole numbers by row and by column of a table of them."""
    places = torch.linspace(0, flat.numel() - 1, min(flat.numel(), _SAMPLE), dtype=torch.float64).long()
    sample = flat[places.to(flat.device)].float().cpu().numpy().tobytes()
    raw = flat.view(torch.uint8)
    raw = torch.nn.functional.pad(raw, (0, -len(raw) % 8)) if len(raw) % 8 or raw.storage_offset() % 8 else raw
    words = raw.view(torch.int64)
    table, rest = words[: len(words) // _SAMPLE * _SAMPLE].view(-1, _SAMPLE), words[len(words) // _SAMPLE * _SAMPLE :]
    sums = (table.sum(0), table.sum(1), rest)
    return sample + b"".join(part.cpu().numpy().tobytes() for part in sums)
