"""Who gets the DRAM: what is resident, the KV cache, and each site's cache.

Sizes are in bytes and may be fractions: 4-bit weights with shared scales have no whole number of bytes per unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from dipc.errors import UsageError
from dipc.memory.traffic import TrafficProgram
from dipc.quantities import format_bytes

K = TypeVar("K")


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
    layer each site gets in proportion to its bytes times its claim, in whole units, rounded down; what one has no use
    for goes to the others.

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
    shares = _share(rest, sizes, dict.fromkeys(sizes, Fraction(1)))
    capacities = {name: units for layer in sizes for name, units in _inside(traffic, layer, shares[layer]).items()}
    cached = sum((capacities[site.name] * Fraction(site.unit_bytes) for site in traffic.sites), Fraction(0))
    return Allocation(capacities, traffic.resident_bytes, kv_bytes, float(cached), float(rest - cached))


def _inside(traffic: TrafficProgram, layer: int, amount: Fraction) -> dict[str, int]:
    """Units of each site of a layer whose caches have so many bytes."""
    sites = {site.name: site for site in traffic.sites if site.layer == layer}
    sizes = {name: site.units * Fraction(site.unit_bytes) for name, site in sites.items()}
    shares = _share(amount, sizes, {name: sizes[name] * Fraction(site.claim) for name, site in sites.items()})
    return {name: int(shares[name] // Fraction(site.unit_bytes)) for name, site in sites.items()}


def _share(amount: Fraction, sizes: Mapping[K, Fraction], claims: Mapping[K, Fraction]) -> dict[K, Fraction]:
    """Shares in proportion to claims, none above its owner's size; the surplus goes to the others."""
    shares: dict[K, Fraction] = {}
    claimed = sum(claims.values(), Fraction(0))
    # From what is filled first: once a share of what is left does not fill its owner, it fills no later one.
    for owner in sorted(sizes, key=lambda owner: sizes[owner] / claims[owner]):
        shares[owner] = min(sizes[owner], amount * claims[owner] / claimed)
        amount -= shares[owner]
        claimed -= claims[owner]
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
