"""Find the selections of a program: which node decides a mask, for which site, and by which cache.

U units of a site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import fx

from dipc.errors import UnsupportedModel
from dipc.ir import operators
from dipc.ir.operator import Read, argument, has_argument, is_stored_in_parts, set_argument, weight_read
from dipc.ir.program import Program


def reads_of(node: fx.Node) -> tuple[Read, ...]:
    """Return what one node reads, per token."""
    if node.op != "call_function":
        return ()
    operator = operators.operator_of(node.target)
    if operator is not None:
        return operator.traffic(node)
    return tuple(weight_read(a, "all") for a in node.all_input_nodes if a.op == "get_attr" or is_stored_in_parts(a))


def selection_of(mask: fx.Node) -> fx.Node:
    """The node that decided a mask: the selection itself, whose results may be a tuple."""
    return mask.args[0] if "getitem" in str(mask.target) else mask  # type: ignore[return-value]


def site_name(mask: fx.Node) -> str:
    """The name that the selection gives its site, or the node's."""
    node = selection_of(mask)
    given = argument(node, "site") if has_argument(node, "site") else ""
    return str(given or node.name)


def selections(program: Program) -> dict[str, fx.Node]:
    """Site name -> the node whose value is its mask, for every mask that some product reads by.

    Raises:
        UnsupportedModel: two different masks have one site's name.
    """
    found: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        for read in reads_of(node):
            if read.mask is not None and found.setdefault(site_name(read.mask), read.mask) is not read.mask:
                raise UnsupportedModel(f"two masks are made at the site {site_name(read.mask)}; give each its own name")
    return found


def kept_units(density: float, units: int) -> int:
    """Units to keep: density times units, rounded half up, at least one."""
    return max(1, math.floor(density * units + 0.5))


def expected_units(mask: fx.Node, units: int) -> int | None:
    """Return how many units of a site a token keeps: k, or what a threshold should; None where nothing says."""
    node = selection_of(mask)
    if has_argument(node, "k"):
        return int(argument(node, "k"))
    return kept_units(argument(node, "density"), units) if has_argument(node, "density") else None


def cache_aware_nodes(program: Program) -> dict[str, fx.Node]:
    """Site -> its selection, for every selection that follows a cache: those with a capacity."""
    decided = {site: selection_of(mask) for site, mask in selections(program).items()}
    return {site: node for site, node in decided.items() if has_argument(node, "capacity")}


def cache_aware(program: Program) -> dict[str, tuple[str, int]]:
    """Site -> (policy, capacity) of every cache-aware selection in the program."""
    nodes = cache_aware_nodes(program)
    return {site: (str(argument(n, "policy")), int(argument(n, "capacity"))) for site, n in nodes.items()}


def claims(program: Program) -> dict[str, float]:
    """Site -> its claim to its layer's cache for each of its bytes, of every cache-aware selection."""
    return {site: float(argument(node, "claim")) for site, node in cache_aware_nodes(program).items()}


def popularities(program: Program) -> dict[str, npt.NDArray[np.int64]]:
    """Site -> popularity of its units, int64 [U], of each cache-aware selection that has it from a calibration.

    A program without weights knows it of no site.
    """
    given = {site: argument(node, "freq") for site, node in cache_aware_nodes(program).items()}
    stored = {site: program.weights[str(freq.target)] for site, freq in given.items() if freq.op == "get_attr"}
    return {site: weight.cpu().numpy() for site, weight in stored.items() if weight.device.type != "meta"}


def capacities_text(program: Program) -> str:
    """The capacities that cache-aware selections followed, as a trace records them."""
    return ",".join(f"{site}={c}" for site, (_, c) in sorted(cache_aware(program).items())) or "none"


def with_capacities(program: Program, capacities: Mapping[str, int]) -> Program:
    """The program with the cache-aware selections' capacity set, in units per site; other sites are as they were."""
    after = program.replace(graph=program.edit())
    for site, node in cache_aware_nodes(after).items():
        if site in capacities:
            set_argument(node, "capacity", int(capacities[site]))
    return after
