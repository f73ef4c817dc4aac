"""Find where a program's values stop being finite.

Nothing is looked at while all is well: a loss or a logit that is not finite says that something is wrong, and only then
is the graph walked, node by node, to say where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dipc.errors import NotFinite
from dipc.ir.operator import is_stored_in_parts
from dipc.ir.placement import device_of
from dipc.ir.program import Program, is_buffer
from dipc.ir.verify import empty_port

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Culprit:
    """The first value that is not finite: a weight, or what a module computes; what it holds, and its dtype."""

    name: str
    is_weight: bool
    holds: str
    dtype: torch.dtype


class _FoundError(Exception):
    """Ends a walk."""

    def __init__(self, culprit: Culprit) -> None:
        self.culprit = culprit


class _Walk(fx.Interpreter):
    """Runs a graph up to the first value that is not finite, and keeps only what is still to be read."""

    def run_node(self, n: fx.Node) -> Any:
        """One node; `_FoundError` where it is the first."""
        value = super().run_node(n)
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if n.op != "placeholder" and isinstance(tensor, Tensor) and (holds := _holds(n, tensor)):
                is_weight = n.op == "get_attr"
                name = str(n.target) if is_weight else str(n.meta.get("module") or n.name)
                raise _FoundError(Culprit(name, is_weight, holds, tensor.dtype))
        return value


def _holds(node: fx.Node, value: Tensor) -> str:
    """Return "NaN" or "infinity" where a value has no right to it, else nothing.

    Attention masks with minus infinity, and so do scores with a mask added; what is multiplied by weights never may.
    """
    if not value.is_floating_point() or (node.op == "get_attr" and is_buffer(str(node.target))):
        return ""
    if bool(value.isnan().any()):
        return "NaN"
    of_weights = any(n.op == "get_attr" or is_stored_in_parts(n) for n in node.all_input_nodes)
    either = node.op == "get_attr" or of_weights
    return "infinity" if bool((value.isinf() if either else value.isposinf()).any()) else ""


@torch.no_grad()
def first_not_finite(program: Program, ids: Sequence[int] | Tensor) -> Culprit | None:
    """Run a program on tokens [T] from an empty cache, and return the first value that is not finite.

    Args:
        program: with weights.
        ids: at most the context.

    Returns:
        None where all values are finite.
    """
    device = device_of(program)
    ids_T = torch.as_tensor(ids, device=device)
    given = {"tokens": ids_T[None], "positions": torch.arange(len(ids_T), device=device)[None]}
    ports = [given[p.kind] if p.kind in given else empty_port(p, len(ids_T), 0, str(device)) for p in program.inputs]
    try:
        _Walk(program.module).run(*ports)
    except _FoundError as found:
        return found.culprit
    return None


def not_finite(program: Program, ids: Sequence[int] | Tensor) -> NotFinite:
    """Return the error to raise where a program gave NaN or infinity on tokens [T]: it names the first place."""
    name, found = program.info.name, first_not_finite(program, ids)
    if found is None:
        return NotFinite(f"{name}: its logits are not finite, for no value that they are computed from")
    if found.is_weight:
        return NotFinite(f"{name}: {found.name} holds {found.holds}: the weights are damaged; get them again")
    dtype = str(found.dtype).removeprefix("torch.")
    what = f"{name}: {found.name} is the first to compute {found.holds}, in {dtype}"
    if found.dtype in _HALF:
        return NotFinite(f"{what}, which cannot hold its values; open the model with dtype float32 (--dtype float32)")
    return NotFinite(f"{what}: its weights are damaged, or too large for any dtype; get them again")
