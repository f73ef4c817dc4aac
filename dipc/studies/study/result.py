"""The result of a study: points (a program on a device), targets (the throughput at a perplexity), and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dipc.studies.engine.finding import Finding


@dataclass(frozen=True)
class Layer:
    """One MLP layer's cache and traffic: hits per access in bytes, and mean bytes per token."""

    layer: int
    hit_rate: float
    flash_bytes_per_token: float
    dram_bytes_per_token: float


@dataclass(frozen=True)
class TokenCost:
    """The cost of a token on the device, on average over the counted tokens. Simulated.

    Attributes:
        missed_share: bytes of the units that are not in the cache, of all bytes of the MLPs.
        speedup: throughput over the dense model's on the same device.
        bound: what takes longer, reading flash or reading DRAM.
        energy_j_per_token: None where the device's file says nothing of energy.
    """

    tokens_per_second: float
    ms_per_token: float
    flash_bytes_per_token: float
    dram_bytes_per_token: float
    hit_rate: float
    missed_share: float
    bound: Literal["flash", "dram"]
    energy_j_per_token: float | None
    speedup: float
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Point:
    """A program on a device with so much DRAM, such a flash and such a policy.

    Attributes:
        id: names it within the study.
        method: as `--methods` calls it.
        pipeline: what was compiled; empty for the dense model.
        density: that was asked for.
        gamma: of a cache-aware method.
        flash_bytes_per_s: None where the flash is as in the device's file.
        perplexity: on the study's text; None without weights.
        kl: nats per token to the dense model.
        density_measured: weights of the MLPs that were read, of all.
        cost: None where there is none.
        source: what the activity is that was priced.
        seed: of activity that was made up.
        reason: why something is missing, in a line.
        failed: whether that was a failure; a method that cannot do what was asked did not fail.
    """

    id: str
    method: str
    pipeline: str
    density: float
    gamma: float | None
    policy: str
    dram_bytes: int
    flash_bytes_per_s: float | None
    perplexity: float | None = None
    kl: float | None = None
    density_measured: float | None = None
    cost: TokenCost | None = None
    source: str = ""
    seed: int | None = None
    reason: str | None = None
    failed: bool = False

    @property
    def throughput(self) -> float:
        """Tokens per second; 0 where there is no cost."""
        return self.cost.tokens_per_second if self.cost else 0.0


@dataclass(frozen=True)
class Target:
    """The highest throughput of a method at a perplexity, on one device.

    Attributes:
        max_ppl_increase: allowed over the dense model's perplexity.
        interpolated: whether the figures lie between two measured points rather than being those of one.
        neighbours: ids of the measured points that it rests on, the one within the limit first.
        reason: why there is none, or what bounds it.
        by_gamma: throughput at each gamma that was asked for, of a cache-aware method; `gamma` is the best of them.
    """

    method: str
    max_ppl_increase: float
    dram_bytes: int
    flash_bytes_per_s: float | None
    policy: str
    gamma: float | None = None
    tokens_per_second: float | None = None
    perplexity: float | None = None
    density: float | None = None
    speedup: float | None = None
    interpolated: bool = False
    neighbours: tuple[str, ...] = ()
    reason: str | None = None
    by_gamma: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """All points and targets, with what they share.

    Attributes:
        model: its name, digest, bytes, bits per weight, and whether it has weights.
        text: its name, digest, tokens scored, tokens of a window and protocol; None without weights.
        warmup: tokens that fill the caches before one is counted; None where no trace was replayed.
        seed: of activity that is made up.
        scope: which tokens are sparse.
        device: its name, file, description and assumptions.
        settings: what else all prices depend on.
        dense_perplexity: None without weights.
        points: dense ones first.
        timelines: the reads of one token, for some points.
        findings: what the figures show.
    """

    model: Mapping[str, Any]
    text: Mapping[str, Any] | None
    warmup: int | None
    seed: int
    scope: str
    device: Mapping[str, Any]
    settings: Mapping[str, Any]
    dense_perplexity: float | None
    points: tuple[Point, ...]
    targets: tuple[Target, ...] = ()
    timelines: tuple[Mapping[str, Any], ...] = ()
    findings: tuple[Finding, ...] = ()

    def point(self, name: str) -> Point:
        """The point of that id."""
        return next(point for point in self.points if point.id == name)

    @property
    def failures(self) -> tuple[Point, ...]:
        """Points that something went wrong with."""
        return tuple(point for point in self.points if point.failed)
