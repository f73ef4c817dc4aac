"""Lower a program to its memory traffic: what is resident, and what is cached in which units.

The graph is walked once; every operator states what it reads (its traffic rule), and an ATen node reads its weights
whole. A weight of a gated MLP belongs to the weight cache, anything else is resident (backends/README.md). Of a
quantised weight the scales that travel with a unit belong to the unit, and those that units share are resident. A unit
of a weight that was pruned for good has its mean number of kept values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from dipc.errors import UnsupportedModel, UsageError
from dipc.ir import operators
from dipc.ir.operator import Read
from dipc.ir.program import Mlp, Port, Program, is_buffer
from dipc.ir.selections import claims, expected_units, reads_of, selections, site_name
from dipc.ir.verify import torch_dtype
from dipc.ir.weight_parts import pruned_values, values_per_entry, weight_of
from dipc.memory.traffic import KvWindow, Site, TrafficProgram


def active_units(program: Program) -> dict[str, int]:
    """Site name -> units kept per token: always, or by a threshold on average; sites that do not say are left out."""
    units = {site.name: site.units for site in lower(program).sites}
    counts = {s: expected_units(mask, units[s]) for s, mask in selections(program).items() if s in units}
    return {site: count for site, count in counts.items() if count is not None}


def lower(program: Program, bits_per_weight: float | None = None) -> TrafficProgram:
    """The traffic of one token. Quantised weights count the bytes that they have, scales and zeros included.

    Args:
        program: with its MLPs outlined (`outline-glu`); an MLP that was not is counted as resident.
        bits_per_weight: price every weight that is not quantised at this width, scales included (INT4 with a 16-bit
            scale per 64 weights is 4.25); by default each at its width in the checkpoint.

    Raises:
        UnsupportedModel: a weight is read by two different masks.
        UsageError: the width is none that a weight can have.
    """
    check_bits(bits_per_weight)
    stored = _Stored(program, bits_per_weight)
    owned = _mlp_reads(program)
    sites: dict[str, list[tuple[Read, Mlp]]] = {}
    for read, mlp in owned.values():
        sites.setdefault(_label(read, mlp), []).append((read, mlp))
    cached = {name for read, _ in owned.values() for name in (read.weight, *read.per_unit)}
    apart = {name for name in program.weights if name not in cached and not is_buffer(name)}
    resident = sum(map(stored.size_bytes, sorted(apart)))
    unread = sum(map(stored.size_bytes, sorted(_looked_up(program) & apart)))
    windows = _windows(program)
    kv = sum(_position_bytes(p.type.shape) for p in program.inputs if p.kind == "kv") + _states(program)[1]
    claimed = claims(program)
    made = tuple(_site(name, reads, stored, claimed.get(name, 1.0)) for name, reads in sites.items())
    return TrafficProgram(resident, made, kv, program.info.name, unread, windows)


def mean_bits(program: Program, bits_per_weight: float | None = None) -> float:
    """Bits that a parameter takes on average, with the scales and zeros of quantised weights and with their copies."""
    if not values_per_entry(program.graph) and (bits_per_weight is not None or not program.info.own_bits):
        return program.info.weight_bits if bits_per_weight is None else bits_per_weight
    return 8 * lower(program, bits_per_weight).total_bytes / program.parameter_count


def check_bits(bits_per_weight: float | None) -> None:
    """UsageError unless it is None or a width that a weight can have."""
    if bits_per_weight is not None and not 0 < bits_per_weight <= 64:
        raise UsageError(f"bits_per_weight is {bits_per_weight:g}; it must be above 0 and at most 64")


class _Stored:
    """The weights of a program as they are stored."""

    def __init__(self, program: Program, bits: float | None) -> None:
        self.info, self.weights, self.bits = program.info, program.weights, bits
        self.held = values_per_entry(program.graph)
        self.pruned = pruned_values(program.graph)
        self.exact = self.held.keys() - self.pruned.values()

    def size_bytes(self, name: str) -> float:
        """Quantised tensors and kept bits have their own size, anything else the given bits or the checkpoint's."""
        weight = self.weights[name]
        if name in self.exact:
            return weight.numel() * float(weight.element_size())
        return weight.numel() * (self.info.bits_of(name) if self.bits is None else self.bits) / 8

    def values(self, name: str) -> int:
        """Values of the weight that a tensor holds."""
        return int(self.weights[name].numel() * self.held.get(name, 1))

    def kept_values(self, name: str) -> int:
        """Those of them that were not pruned for good."""
        return self.weights[self.pruned[name]].numel() if name in self.pruned else self.values(name)

    def units(self, read: Read) -> int:
        """Rows, or columns, of which one byte of codes may hold several."""
        rows, entries = self.weights[read.weight].shape
        return int(rows if read.axis == "rows" else entries * self.held.get(read.weight, 1))


def _reads_by_mlp(program: Program) -> Iterator[tuple[Read, Mlp]]:
    """Reads of the MLPs' weights: those under their names, and what else the MLP's module reads by a mask.

    A pass may store a weight anew under another name; what a method adds and reads whole, a predictor, is resident.
    """
    by_weight = {name: m for m in program.mlps for name in (m.gate, m.up, m.down)}
    by_module = {m.name: m for m in program.mlps}
    for node in program.graph.nodes:
        for read in reads_of(node):
            mlp = by_weight.get(weight_of(read.weight))
            if mlp is None and read.mask is not None:
                mlp = by_module.get(str(node.meta.get("module", "")))
            if mlp is not None:
                yield read, mlp


def _mlp_reads(program: Program) -> dict[str, tuple[Read, Mlp]]:
    """How each MLP weight is read: once per token, whole if anything reads it whole."""
    reads = list(_reads_by_mlp(program))
    found = {read.weight: (read, mlp) for read, mlp in reads if read.mask is None}
    for read, mlp in reads:
        first = found.setdefault(read.weight, (read, mlp))[0]
        if first.mask is not None and (first.mask, first.axis) != (read.mask, read.axis):
            raise UnsupportedModel(f"{read.weight} is read by two different masks, which have no common units")
    return found


def _label(read: Read, mlp: Mlp) -> str:
    if read.mask is not None:
        return site_name(read.mask)
    return f"{mlp.site_prefix}.{weight_of(read.weight).removesuffix('.weight').rsplit('.', 1)[-1]}"


def _site(name: str, reads: list[tuple[Read, Mlp]], stored: _Stored, claim: float) -> Site:
    """A unit is a row or a column of every matrix that the mask decides, fetched together with its scales."""
    first, mlp = reads[0]
    units = stored.units(first)
    matrices = tuple(read.weight for read, _ in reads)
    size_bytes = sum(stored.size_bytes(n) for read, _ in reads for n in (read.weight, *read.per_unit))
    weights = sum(map(stored.values, matrices))
    kept = sum(map(stored.kept_values, matrices))
    each = (size_bytes / units, matrices, first.mask is None, weights / units, kept / units)
    return Site(name, mlp.layer, units, *each, claim)


def _looked_up(program: Program) -> set[str]:
    """Weights of which a token reads one row, next to nothing: embedding tables that nothing else reads."""
    lookups = (torch.ops.aten.embedding.default, operators.target("dequantize_rows"))
    tables: set[str] = set()
    others: set[str] = set()
    for node in program.graph.nodes:
        weights = {str(a.target) for a in node.all_input_nodes if a.op == "get_attr"}
        (tables if node.target in lookups else others).update(weights)
    return tables - others


def _windows(program: Program) -> tuple[KvWindow, ...]:
    """The windows of the KV cache, with what they are of; keys and values are two ports of a layer.

    Recurrent states are of one size however long the text is, as a window of one position.
    """
    found: dict[int, list[Port]] = {}
    for port in program.inputs:
        if port.kind == "kv" and port.window is not None:
            found.setdefault(port.window, []).append(port)
    layers, size_bytes = _states(program)
    return (
        *((KvWindow(1, layers, size_bytes),) if layers else ()),
        *(
            KvWindow(window, len(ports) // 2, sum(_position_bytes(p.type.shape) for p in ports))
            for window, ports in sorted(found.items())
        ),
    )


def _states(program: Program) -> tuple[int, float]:
    """Layers with a recurrent state, and the bytes of all these states."""
    ports = [p for p in program.inputs if p.kind == "recurrent"]
    sizes = (math.prod(map(int, p.type.shape)) * torch_dtype(p.type.dtype).itemsize for p in ports)
    return len({p.name.split("_")[1] for p in ports}), float(sum(sizes))


def _position_bytes(shape: tuple[int | str, ...]) -> float:
    """Bytes of one position in a KV port, kept in 16 bits."""
    size = 2.0
    for extent in shape:
        size *= 1 if isinstance(extent, str) else extent
    return size


def program_density(program: Program) -> float:
    """Kept weights of all weights of the MLPs, by what every selection keeps (DIP: (2 rho_in + rho_glu) / 3)."""
    active, kept, total = active_units(program), 0.0, 0.0
    for site in lower(program).sites:
        total += site.weights
        kept += site.kept_weights * (1.0 if site.full else active.get(site.name, site.units) / site.units)
    return kept / total if total else 1.0
