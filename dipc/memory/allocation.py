"""Who gets the DRAM: what is resident, the KV cache, and each site's cache.

Sizes are in bytes and may be fractions: 4-bit weights with shared scales have no whole number of bytes per unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from dipc.errors import UsageError
from dipc.memory.traffic import TrafficProgram
from dipc.quantities import format_bytes


@dataclass(frozen=True)
class Allocation:
    """How the DRAM is used."""

    capacities: dict[str, int]
    """Units cached at each site."""
    resident_bytes: float
    kv_bytes: float
    cached_bytes: float
    """Bytes of the cached units."""
    left_over_bytes: float
    """Bytes that are not used: less than a unit per site, or what remains once the whole model fits."""


def allocate(traffic: TrafficProgram, dram_bytes: float, context: int) -> Allocation:
    """Share the DRAM: first what is resident and the KV cache, then the caches.

    The rest is shared equally over the layers; what a layer has no use for goes to the others in equal parts. Inside a
    layer each site gets in proportion to its bytes, in whole units, rounded down.

    Args:
        traffic: the program.
        dram_bytes: DRAM that the device has for the model.
        context: positions in the KV cache, at least 0.

    Raises:
        UsageError: `context` is negative, or the DRAM does not hold the resident part and the KV cache.
    """
    if context < 0:
        raise UsageError(f"context is {context}; give a number of positions of at least 0")
    kv_bytes = traffic.kv_bytes(context)
    needed = traffic.resident_bytes + kv_bytes
    if not needed <= dram_bytes:
        raise UsageError(_does_not_fit(traffic, dram_bytes, kv_bytes, context))
    # Exact arithmetic: a unit more or less must not hang on how a quotient was rounded.
    rest = Fraction(dram_bytes) - Fraction(needed)
    sizes: dict[int, Fraction] = {}
    for site in traffic.sites:
        sizes[site.layer] = sizes.get(site.layer, Fraction(0)) + site.units * Fraction(site.unit_bytes)
    shares = _share_equally(rest, sizes)
    capacities = {site.name: site.units * shares[site.layer] // sizes[site.layer] for site in traffic.sites}
    cached = sum((capacities[site.name] * Fraction(site.unit_bytes) for site in traffic.sites), Fraction(0))
    return Allocation(capacities, traffic.resident_bytes, kv_bytes, float(cached), float(rest - cached))


def _share_equally(amount: Fraction, sizes: dict[int, Fraction]) -> dict[int, Fraction]:
    """Equal shares, none above its layer's size; the surplus goes to the others."""
    shares: dict[int, Fraction] = {}
    # From the smallest up: once an equal share of what is left does not fill a layer, it fills no later one.
    for done, layer in enumerate(sorted(sizes, key=lambda layer: sizes[layer])):
        shares[layer] = min(sizes[layer], amount / (len(sizes) - done))
        amount -= shares[layer]
    return shares


def _does_not_fit(traffic: TrafficProgram, dram_bytes: float, kv_bytes: float, context: int) -> str:
    needed = traffic.resident_bytes + kv_bytes
    parts, advice = "all resident", "give it more DRAM or quantise to fewer bits"
    if context:
        parts = (
            f"{format_bytes(traffic.resident_bytes)} resident, {format_bytes(kv_bytes)} KV cache at context {context}"
        )
        advice = "give it more DRAM, shorten the context or quantise to fewer bits"
    return (
        f"{traffic.label} needs {format_bytes(needed)} of DRAM ({parts}) and {format_bytes(max(dram_bytes, 0))} is "
        f"available, {format_bytes(needed - dram_bytes)} too little; {advice}"
    )
