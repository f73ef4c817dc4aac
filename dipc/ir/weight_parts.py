"""The names of the parts of stored weights, and how many values and parameters an entry of their tensors holds.

A weight is stored as itself, as codes with scales and zeros or minima (`dequantize`), or as the values of the weights
that were not pruned and a bit for every weight (`unmask`). An operator that takes quantised weights says so by its
arguments: `bits` wide codes, named `codes` or `units`, with their `scales` and `zeros` or `minima`; one that takes
pruned weights has `kept` bits and `values`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

CODES = ("codes", "units")
TABLES = ("scales", "zeros", "minima")
MAIN = ("codes", "kept")
"""The part of a stored weight that has an entry, or a share of one, for each of its values."""
_COPY = "_copy"


def copy_of(weight: str) -> str:
    """Return what the parts of a stored copy are named after: under a weight that is kept nothing can be named."""
    return f"{weight}{_COPY}"


def part_of(weight: str, part: str) -> str:
    """Return the name of the `codes`, `scales`, `zeros`, `minima`, `kept` or `values` of a stored weight."""
    return f"{weight}.{part}"


def weight_of(main: str) -> str:
    """The weight that codes, or kept bits, or those of its copy, stand for; any other weight stands for itself."""
    stem, _, part = main.rpartition(".")
    return stem.removesuffix(_COPY) if part in MAIN else main


def parameters_per_entry(graph: fx.Graph) -> dict[str, Fraction]:
    """Name -> parameters of the model in one entry, of all stored tensors: `values_per_entry`, but none in a copy.

    A copy is what `copy_of` names and of which the graph holds the original too.
    """
    found = values_per_entry(graph)
    own = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name: Fraction(0) if name != weight_of(name) in own else values for name, values in found.items()}


def values_per_entry(graph: fx.Graph) -> dict[str, Fraction]:
    """Name -> values of the weight in one entry, of all tensors that a weight is stored in parts as.

    Two in a byte of 4-bit codes, 8/3 of 3-bit codes, none in a scale; eight in a byte of kept bits, and so none in the
    kept values.
    """
    found: dict[str, Fraction] = {}
    for node in graph.nodes:
        given = _arguments(node)
        if given.get("bits"):
            found |= {str(given[n].target): Fraction(8, given["bits"]) for n in CODES if given.get(n) is not None}
            found |= {str(given[n].target): Fraction(0) for n in TABLES if given.get(n) is not None}
        elif "kept" in given:
            found |= {str(given["kept"].target): Fraction(8), str(given["values"].target): Fraction(0)}
    return found


def pruned_values(graph: fx.Graph) -> dict[str, str]:
    """Kept bits -> the values that they place, of all weights that were pruned for good."""
    given = [_arguments(node) for node in graph.nodes]
    return {str(g["kept"].target): str(g["values"].target) for g in given if "kept" in g}


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of one of dipc's operators, by name."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    if schema is None or not schema.name.startswith("dipc::"):
        return {}
    return {a.name: _value(node, i, a) for i, a in enumerate(schema.arguments)}


def _value(node: fx.Node, position: int, parameter: Any) -> Any:
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(parameter.name, parameter.default_value)
