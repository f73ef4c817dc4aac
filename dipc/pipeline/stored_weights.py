"""The common part of the passes that store weights in another form: which matrices they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from torch import Tensor, fx

from dipc.errors import UsageError
from dipc.ir.operator import argument, has_argument, is_dequantized, is_unmasked
from dipc.ir.pattern import Mismatch
from dipc.ir.program import Program, is_buffer
from dipc.ir.stored_weight import EMBEDDING, other_reader, readers_of
from dipc.ir.weight_parts import values_per_entry, weight_of

Weights = Literal["all", "mlp"]


def choose(
    programs: Iterable[Program], about: Weights, obstacle: Callable[[str, Tensor], str | None]
) -> tuple[dict[str, Tensor], tuple[Mismatch, ...]]:
    """The matrices of linear layers that can be stored in another form, and the others with the reason.

    Args:
        programs: of which the weights are.
        about: all linear layers, or those of the gated MLPs.
        obstacle: why a pass leaves a matrix that nothing else speaks against, or None.
    """
    programs = list(programs)
    mlps = {name for program in programs for m in program.mlps for name in (m.gate, m.up, m.down)}
    readers = readers_of(programs)
    chosen: dict[str, Tensor] = {}
    skipped: dict[str, Mismatch] = {}
    for program in programs:
        held = values_per_entry(program.graph)
        for name, weight in program.weights.items():
            wanted = about == "all" or weight_of(name) in mlps
            if not wanted or weight.dim() != 2 or is_buffer(name) or held.get(name) == 0:
                continue
            reason = _obstacle(name, weight, readers[name]) or obstacle(name, weight)
            if reason is None:
                chosen[name] = weight
            else:
                skipped[name] = Mismatch(reason, weight_of(name).removesuffix(".weight"))
    return chosen, tuple(skipped.values())


def _obstacle(name: str, weight: Tensor, readers: list[fx.Node]) -> str | None:
    if any(is_dequantized(n) for n in readers):
        return "it is quantised already"
    if any(is_unmasked(n) for n in readers):
        return "it is pruned already"
    if readers and all(n.target is EMBEDDING for n in readers):
        return "it is a table of which rows are looked up"
    if (reason := other_reader(name, readers)) is not None:
        return reason
    if not weight.is_floating_point():
        return f"its values are {str(weight.dtype).removeprefix('torch.')}, not floating"
    if weight.device.type != "meta" and not bool(weight.isfinite().all()):
        return "some of its values are not finite"
    return None


def check_not_packed(name: str, program: Program) -> None:
    """UsageError where a pass of that name comes after matrices were packed."""
    for node in program.graph.nodes:
        if has_argument(node, "units") and has_argument(node, "bits") and not argument(node, "bits"):
            raise UsageError(f"{name}: %{node.name} reads a matrix that is packed; put {name} before pack")
