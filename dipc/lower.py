"""Lowering a program to its memory traffic: what is resident, and what is cached in which units.

The graph is walked once; every operator states what it reads (its traffic rule), and an ATen node reads its weights
whole. A weight of a gated MLP belongs to the weight cache, anything else is resident (DESIGN: capacity).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from dipc import ops
from dipc.ops.operator import Read, argument, argument_names
from dipc.program import Program, is_buffer
from dipc.traffic import Site, TrafficProgram


def reads_of(node: fx.Node) -> tuple[Read, ...]:
    """What one node reads, per token."""
    if node.op != "call_function":
        return ()
    operator = ops.operator_of(node.target)
    if operator is not None:
        return operator.traffic(node)
    return tuple(Read(str(a.target), "all") for a in node.all_input_nodes if a.op == "get_attr")


def selection_of(mask: fx.Node) -> fx.Node:
    """The node that decided a mask: the selection itself, whose results may be a tuple."""
    return mask.args[0] if "getitem" in str(mask.target) else mask  # type: ignore[return-value]


def site_name(mask: fx.Node) -> str:
    """The name that the selection gives its site, or the node's."""
    node = selection_of(mask)
    operator = ops.operator_of(node.target)
    if operator is None:
        return node.name
    names = argument_names(node)
    given = argument(node, operator.name, names.index("site")) if "site" in names else ""
    return str(given or node.name)


def selections(program: Program) -> dict[str, fx.Node]:
    """Site name -> the node whose value is its mask, for every mask that some product reads by."""
    found: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        for read in reads_of(node):
            if read.mask is not None:
                found.setdefault(site_name(read.mask), read.mask)
    return found


def active_units(program: Program) -> dict[str, int]:
    """Site name -> units kept per token, where the selection keeps a fixed number k."""
    active = {}
    for site, mask in selections(program).items():
        node = selection_of(mask)
        names = argument_names(node)
        if "k" in names:
            active[site] = int(argument(node, site, names.index("k")))
    return active


def lower(program: Program, bits_per_weight: float | None = None) -> TrafficProgram:
    """The traffic of one token.

    Args:
        program: with its MLPs outlined (`outline-glu`); an MLP that was not is counted as resident.
        bits_per_weight: price every weight at this width, scales included (INT4 with a 16-bit scale per 64 weights is
            4.25); by default at the width of the checkpoint.
    """
    bits = bits_per_weight or program.info.weight_bits
    layer_of = {name: m.layer for m in program.mlps for name in (m.gate, m.up, m.down)}
    grouped: dict[tuple[str, str], list[str]] = {}
    masks: dict[tuple[str, str], fx.Node | None] = {}
    for node in program.graph.nodes:
        for read in reads_of(node):
            if read.weight not in layer_of:
                continue
            key = (read.weight, "all") if read.mask is None else (site_name(read.mask), read.axis)
            masks[key] = read.mask
            grouped.setdefault(key, []).append(read.weight)
    by_site: dict[str, list[Any]] = {}
    for (site, axis), names in grouped.items():
        mask = masks[(site, axis)]
        shape = program.weights[names[0]].shape
        units = int(shape[0] if axis == "rows" else shape[1])
        size = sum(program.weights[n].numel() * bits / 8 / units for n in names)
        label = site if mask is not None else _full_name(site, layer_of[names[0]])
        if label in by_site:
            by_site[label][3] += size
            by_site[label][4] += names
        else:
            by_site[label] = [label, layer_of[names[0]], units, size, list(names), mask is None]
    apart = [name for name in program.weights if name not in layer_of and not is_buffer(name)]
    resident = sum(program.weights[name].numel() for name in apart) * bits / 8
    looked_up = set(apart) - {r.weight for n in program.graph.nodes if not _looks_up(n) for r in reads_of(n)}
    unread = sum(program.weights[name].numel() for name in looked_up) * bits / 8
    kv = sum(_position_bytes(p.type.shape) for p in program.inputs if p.kind == "kv")
    sites = tuple(Site(s[0], s[1], s[2], s[3], tuple(s[4]), s[5]) for s in by_site.values())
    return TrafficProgram(resident, sites, kv, program.info.name, unread)


def _looks_up(node: fx.Node) -> bool:
    """An embedding reads one row of its table per token: next to nothing."""
    return node.op == "call_function" and node.target is torch.ops.aten.embedding.default


def _full_name(weight: str, layer: int) -> str:
    leaf = weight.removesuffix(".weight").rsplit(".", 1)[-1]
    return f"layers.{layer}.{leaf}"


def _position_bytes(shape: tuple[int | str, ...]) -> float:
    """Bytes of one position in a KV port, kept in 16 bits."""
    size = 2.0
    for extent in shape:
        size *= 1 if isinstance(extent, str) else extent
    return size


def program_density(program: Program) -> float:
    """Kept weights of all weights of the MLPs, by the fixed k of every selection (DIP: (2 rho_in + rho_glu) / 3)."""
    active, kept, total = active_units(program), 0.0, 0.0
    for site in lower(program).sites:
        size = site.units * site.unit_bytes
        total += size
        kept += size if site.full else size * active.get(site.name, site.units) / site.units
    return kept / total if total else 1.0


def with_capacities(program: Program, capacities: Mapping[str, int]) -> Program:
    """The program with the cache-aware selections' capacity set, in units per site; other sites are as they were."""
    graph = program.edit()
    for node in graph.nodes:
        if node.op == "call_function" and node.target is ops.target("select_cache_aware"):
            names = argument_names(node)
            site, place = argument(node, "", names.index("site")), names.index("capacity")
            if site in capacities:
                node.args = (*node.args[:place], int(capacities[site]), *node.args[place + 1 :])
    return program.replace(graph=graph)


def cache_aware(program: Program) -> dict[str, tuple[str, int]]:
    """Site -> (policy, capacity) of every cache-aware selection in the program."""
    found = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is ops.target("select_cache_aware"):
            names = argument_names(node)
            site, policy, capacity = (argument(node, "", names.index(n)) for n in ("site", "policy", "capacity"))
            found[site] = (policy, capacity)
    return found
