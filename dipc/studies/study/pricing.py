"""From runs to points: what each program costs on every device of the study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.memory.allocation import Allocation, allocate
from dipc.memory.flash import FlashReadOptions
from dipc.memory.price import Case, Price
from dipc.memory.pricing import price_many
from dipc.memory.trace import Trace
from dipc.quantities import format_bytes, parse_bytes
from dipc.studies.study.programs import Lowered
from dipc.studies.study.result import Layer, TokenCost


@dataclass(frozen=True)
class DeviceSetting:
    """A device with the DRAM and the flash of one point; no flash bandwidth where it is as in the device's file."""

    device: Device
    flash_bytes_per_s: float | None

    @property
    def dram_bytes(self) -> int:
        """DRAM for the model."""
        return self.device.dram_available


@dataclass(frozen=True)
class Priced:
    """A setting and a policy, with the price of a program there or the reason why there is none."""

    setting: DeviceSetting
    policy: str
    price: Price | None
    reason: str | None = None


def priced(
    lowered: Lowered,
    settings: Iterable[DeviceSetting],
    policies: Sequence[str],
    context: int,
    reads: FlashReadOptions,
    trace: Trace | None,
    warmup: int,
) -> Iterator[Priced]:
    """The program under every policy at every setting; all of them share their replays of the trace."""
    wanted: list[tuple[DeviceSetting, str, Case]] = []
    for setting in settings:
        try:
            allocation = allocate(lowered.traffic, setting.dram_bytes, context)
        except UsageError as error:
            yield from (Priced(setting, policy, None, str(error)) for policy in policies)
            continue
        wanted += [
            (setting, policy, Case(allocation, setting.device, get_policy(policy), reads)) for policy in policies
        ]
    if not wanted:
        return
    cases, popularity = [case for *_, case in wanted], lowered.popularity or None
    prices = price_many(lowered.traffic, cases, trace, warmup=warmup, popularity=popularity)
    for (setting, policy, _), price in zip(wanted, prices, strict=True):
        yield Priced(setting, policy, price)


def capacities(lowered: Lowered, dram_bytes: int, context: int) -> tuple[tuple[str, int], ...]:
    """Units that so much DRAM leaves the cache-aware sites. UsageError where it does not hold the resident part."""
    room: Allocation = allocate(lowered.traffic, dram_bytes, context)
    return tuple(sorted((site, units) for site, units in room.capacities.items() if site in lowered.cache_aware))


def cost_of(price: Price, mlp_bytes: float, dense_speed: float) -> TokenCost:
    """The price as a study tells it; `mlp_bytes` are all bytes of the MLPs."""
    missed = sum(float(site.needed_bytes_T.mean()) for site in price.sites.values())
    return TokenCost(
        tokens_per_second=price.throughput,
        ms_per_token=1000 / price.throughput,
        flash_bytes_per_token=price.flash_bytes_per_token,
        dram_bytes_per_token=price.dram_bytes_per_token,
        hit_rate=price.hit_rate,
        missed_share=missed / mlp_bytes if mlp_bytes else 0.0,
        bound=price.bound,
        energy_j_per_token=price.energy_j_per_token,
        speedup=price.throughput / dense_speed,
        layers=tuple(_layers(price)),
    )


def _layers(price: Price) -> Iterator[Layer]:
    by_layer: dict[int, list[str]] = {}
    for name, site in price.sites.items():
        by_layer.setdefault(site.layer, []).append(name)
    for layer, names in sorted(by_layer.items()):
        sites = [price.sites[name] for name in names]
        accesses = sum(site.accesses * site.unit_bytes for site in sites)
        hits = sum(site.hits * site.unit_bytes for site in sites)
        flash = sum(float(site.flash_bytes_T.mean()) for site in sites)
        dram = sum(float(site.dram_bytes_T.mean()) for site in sites)
        yield Layer(layer, hits / accesses if accesses else 0.0, flash, dram)


def point_id(method: str, density: float, gamma: float | None, policy: str, setting: DeviceSetting) -> str:
    """A name that says what the point is."""
    parts = [method, f"{density:g}", *([] if gamma is None else [f"g{gamma:g}"]), policy, _size(setting.dram_bytes)]
    flash = setting.flash_bytes_per_s
    return "-".join([*parts, *([] if flash is None else [f"{_size(round(flash))}/s"])])


def _size(size_bytes: int) -> str:
    """Three digits where they say all, else every byte: ids must differ."""
    text = format_bytes(size_bytes)
    return text.replace(" ", "") if parse_bytes(text) == size_bytes else f"{size_bytes}B"
