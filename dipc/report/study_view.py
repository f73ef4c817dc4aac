"""A study as its charts see it: the device's setting that they are at, whose style is which, which points lead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dipc.cache.policy import get_policy
from dipc.errors import UnknownName
from dipc.quantities import format_bandwidth, format_bytes, number, percent, share
from dipc.report.chart import DENSE

if TYPE_CHECKING:
    from dipc.studies.study.result import Point, Study, Target

T = TypeVar("T")
HOPELESS = 2.0
"""Perplexity above so many times the dense model's is off the axes; a note says where it is."""
_USUAL_DENSITY = 0.5


class Setting(NamedTuple):
    """The memory that a device leaves to the model; `flash` is None where it is the device's own curve."""

    dram: int
    flash: float | None

    @property
    def text(self) -> str:
        """As captions say it."""
        return f"{format_bytes(self.dram)} of DRAM" + (
            "" if self.flash is None else f", flash at {format_bandwidth(self.flash)}"
        )


class View:
    """A study's points, sorted for charts."""

    def __init__(self, study: Study) -> None:
        self.study = study

    @cached_property
    def priced(self) -> tuple[Point, ...]:
        """The points that have a throughput."""
        return tuple(p for p in self.study.points if p.cost is not None)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of the priced points, without the dense model."""
        return distinct(p.method for p in self.priced if p.method != "dense")

    @cached_property
    def has_perplexity(self) -> bool:
        """Return whether any sparse point has a perplexity; a model known by its config has none."""
        return any(p.perplexity is not None for p in self.priced if p.method != "dense")

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """All settings, by DRAM and flash."""
        return tuple(sorted({setting(p) for p in self.priced}, key=lambda s: (s.dram, s.flash or 0.0)))

    @cached_property
    def base(self) -> Setting | None:
        """Return where the timelines are; else the setting with the most points, and of several the middle one."""
        if self._drawn:
            return setting(self._drawn[0])
        counts = Counter(setting(p) for p in self.priced)
        most = [s for s in self.settings if counts[s] == max(counts.values())]
        return most[len(most) // 2] if most else None

    @cached_property
    def _drawn(self) -> tuple[Point, ...]:
        """The points that have timelines."""
        named = distinct(t["point"] for t in self.study.timelines)
        return tuple(p for name in named for p in self.priced if p.id == name)

    @cached_property
    def usual_density(self) -> float | None:
        """The density nearest to one half that most methods were priced at."""
        counts = Counter(d for m in self.methods for d in {p.density for p in self.priced if p.method == m})
        most = [density for density in counts if counts[density] == max(counts.values())]
        return min(most, key=lambda density: (abs(density - _USUAL_DENSITY), density), default=None)

    @cached_property
    def featured(self) -> tuple[Point, ...]:
        """The points whose layers are shown: those of the timelines, else one per method at the base setting."""
        if self._drawn:
            return self._drawn
        found = [self.dense(self.base), *(self.usual(method, self.base) for method in self.methods)]
        return tuple(p for p in found if p is not None)

    @property
    def featured_at(self) -> str:
        """The settings of those points, as captions say them."""
        return " and ".join(distinct(setting(p).text for p in self.featured))

    def on_axis(self, point: Point) -> bool:
        """Return whether a point has a perplexity that is not hopeless."""
        if point.perplexity is None or not math.isfinite(point.perplexity):
            return False
        dense = self.study.dense_perplexity
        return dense is None or point.perplexity <= HOPELESS * dense

    def style(self, method: str) -> int:
        """Return the style of a method's lines on every chart."""
        return DENSE if method == "dense" else self.methods.index(method)

    def dense(self, at: Setting | None) -> Point | None:
        """The dense model's point at a setting."""
        return next((p for p in self.priced if p.method == "dense" and setting(p) == at), None)

    def at(self, at: Setting | None, method: str) -> tuple[Point, ...]:
        """A method's points at a setting that a device can have: without the oracles', where there are others."""
        found = tuple(p for p in self.priced if p.method == method and setting(p) == at)
        return tuple(p for p in found if not knows_future(p.policy)) or found

    def usual(self, method: str, at: Setting | None) -> Point | None:
        """A method's fastest point of the usual density at a setting."""
        found = [p for p in self.at(at, method) if p.density == self.usual_density]
        return max(found, key=lambda p: p.throughput, default=None)


def knows_future(policy: str) -> bool:
    """Return whether a policy is an oracle, which no device has; one that is not installed here counts as none."""
    try:
        return not get_policy(policy).online
    except UnknownName:
        return False


def setting(row: Point | Target) -> Setting:
    """Return where a point or a target stands."""
    return Setting(row.dram_bytes, row.flash_bytes_per_s)


def distinct(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, in order."""
    return tuple(dict.fromkeys(values))


def increase_text(increase: float) -> str:
    """Return how far above the dense model's a perplexity may be: "+0.2"."""
    return f"+{increase:.4g}"


def front(points: Sequence[Point], cost: Callable[[Point], float]) -> tuple[Point, ...]:
    """The points that no other one beats, in throughput at no greater cost, by cost."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (cost(p), -p.throughput)):
        if not found or point.throughput > found[-1].throughput:
            found.append(point)
    return tuple(found)


def said(point: Point) -> str:
    """Return what a mark's tooltip says of a point."""
    cost = point.cost
    quality = [] if point.perplexity is None else [f"perplexity {number(point.perplexity)}"]
    if point.kl is not None:
        quality.append(f"KL {number(point.kl, 3)}")
    lines = [
        name(point),
        *([] if cost is None else [f"{number(cost.tokens_per_second)} tok/s, {number(cost.speedup, 3)} x dense"]),
        *quality,
        *([] if cost is None else [f"hit rate {percent(cost.hit_rate)}, policy {point.policy}"]),
        setting(point).text,
    ]
    return "\n".join(lines)


def name(point: Point) -> str:
    """A point in a legend: its method, density and gamma, and the policy if that is an oracle."""
    if point.method == "dense":
        return "dense"
    parts = [point.method, f"density {share(point.density)}"]
    parts += [] if point.gamma is None else [f"gamma {point.gamma:g}"]
    return ", ".join([*parts, point.policy] if knows_future(point.policy) else parts)
