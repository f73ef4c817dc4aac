"""How many parameters of the model the entries of a stored tensor hold: those of a quantised weight are not its own.

An operator that takes quantised weights says so by its arguments: `bits` wide codes, named `codes` or `units`, with
their `scales` and `zeros`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

CODES = ("codes", "units")
TABLES = ("scales", "zeros")


def part_of(weight: str, part: str) -> str:
    """What the `codes`, `scales` or `zeros` of a quantised weight are called."""
    return f"{weight}.{part}"


def weight_of(codes: str) -> str:
    """The weight that codes stand for; a weight that is not quantised stands for itself."""
    return codes.removesuffix(".codes")


def parameters_per_entry(graph: fx.Graph) -> dict[str, int]:
    """Name -> parameters in one entry, of all quantised tensors: two in a byte of 4-bit codes, none in a scale."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
        if schema is None or not schema.name.startswith("dipc::") or all(a.name != "bits" for a in schema.arguments):
            continue
        given = {a.name: _value(node, i, a) for i, a in enumerate(schema.arguments)}
        if given["bits"]:
            found |= {str(given[n].target): 8 // given["bits"] for n in CODES if given.get(n) is not None}
            found |= {str(given[n].target): 0 for n in TABLES if given.get(n) is not None}
    return found


def _value(node: fx.Node, position: int, parameter: Any) -> Any:
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(parameter.name, parameter.default_value)
