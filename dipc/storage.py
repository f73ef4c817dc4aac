"""What quantised weights are called, and how many values and parameters an entry of their tensors holds.

An operator that takes quantised weights says so by its arguments: `bits` wide codes, named `codes` or `units`, with
their `scales` and `zeros`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

CODES = ("codes", "units")
TABLES = ("scales", "zeros")
_COPY = "_copy"


def copy_of(weight: str) -> str:
    """What the parts of a quantised copy are named after: where the weight is kept, nothing can be named under it."""
    return f"{weight}{_COPY}"


def part_of(weight: str, part: str) -> str:
    """What the `codes`, `scales` or `zeros` of a quantised weight are called."""
    return f"{weight}.{part}"


def weight_of(codes: str) -> str:
    """The weight that codes, or those of its copy, stand for; a weight that is not quantised stands for itself."""
    return codes.removesuffix(".codes").removesuffix(_COPY) if codes.endswith(".codes") else codes


def parameters_per_entry(graph: fx.Graph) -> dict[str, int]:
    """Name -> parameters of the model in one entry, of all quantised tensors: `values_per_entry`, but none in a copy.

    A copy is what `copy_of` names and of which the graph holds the original too.
    """
    found = values_per_entry(graph)
    own = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name: 0 if name != weight_of(name) in own else values for name, values in found.items()}


def values_per_entry(graph: fx.Graph) -> dict[str, int]:
    """Name -> values in one entry, of all quantised tensors: two in a byte of 4-bit codes, none in a scale."""
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
