"""The bytes that a program moves per token: what is resident, what is cached and in which units.

Sizes are in bytes and may be fractions: 4-bit weights with shared scales have no whole number of bytes per unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from dipc.ir.site import SiteId


@dataclass(frozen=True)
class Site:
    """Weights that are fetched from flash and cached unit by unit."""

    name: str
    """Key of the site in a trace and an allocation, such as "layers.0.glu"."""
    layer: int
    """The MLP layer that it belongs to; DRAM is shared equally over the layers."""
    units: int
    """U, the number of units."""
    unit_bytes: float
    """Bytes of one unit, scales included."""
    matrices: tuple[str, ...]
    """Weights that a unit takes a column or a row of."""
    full: bool
    """Every token reads all units, as in the dense model."""
    unit_weights: float
    """Weights in one unit, however wide they are stored: what densities count."""
    unit_kept_weights: float | None = None
    """Those of them that were not pruned for good, on average; all where nothing was."""
    claim: float = 1.0
    """To its layer's cache, for each of its bytes, beside the layer's other sites."""

    def __post_init__(self) -> None:
        if self.units < 1 or not self.unit_bytes > 0 or not self.claim > 0:
            raise ValueError(f"site {self.name}: {self.units} units of {self.unit_bytes} bytes, claim {self.claim:g}")

    @property
    def id(self) -> SiteId:
        """Which site it is."""
        return SiteId.parse(self.name)

    @property
    def size_bytes(self) -> float:
        """Bytes of all units."""
        return self.units * self.unit_bytes

    @property
    def weights(self) -> float:
        """Weights of all units."""
        return self.units * self.unit_weights

    @property
    def kept_weights(self) -> float:
        """Weights of all units that were not pruned for good."""
        return self.weights if self.unit_kept_weights is None else self.units * self.unit_kept_weights


@dataclass(frozen=True)
class KvWindow:
    """Layers whose KV cache keeps a window of the positions."""

    positions: int
    """The most that are kept, the newest among them."""
    layers: int
    bytes_per_position: float
    """Of all these layers together."""


@dataclass(frozen=True)
class TrafficProgram:
    """A program as the cost backend sees it."""

    resident_bytes: float
    """Bytes that are always in DRAM: attention, norms, embeddings, lm_head, predictors."""
    sites: tuple[Site, ...]
    """Everything else: the MLP matrices."""
    kv_bytes_per_position: float
    """KV cache of all layers for one position, as long as none has left a layer's window."""
    label: str
    """The name in messages: the model's name."""
    resident_unread_bytes: float = 0.0
    """The part of `resident_bytes` that takes space but is not read per token, such as an untied embedding table."""
    kv_windows: tuple[KvWindow, ...] = ()
    """The layers that keep a window of the positions only; their bytes are among `kv_bytes_per_position`."""

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.label}: two sites have one name: {names}")
        if not 0 <= self.resident_unread_bytes <= self.resident_bytes:
            raise ValueError(f"{self.label}: {self.resident_unread_bytes} of {self.resident_bytes} bytes are not read")

    @property
    def mlp_bytes(self) -> float:
        """Bytes of all sites."""
        return sum(site.size_bytes for site in self.sites)

    @property
    def total_bytes(self) -> float:
        """Bytes of the model, without a KV cache."""
        return self.resident_bytes + self.mlp_bytes

    def kv_bytes(self, context: int) -> float:
        """Bytes of the KV cache after `context` positions: in a layer with a window at most so many of them."""
        dropped = sum(w.bytes_per_position * max(0, context - w.positions) for w in self.kv_windows)
        return self.kv_bytes_per_position * context - dropped
