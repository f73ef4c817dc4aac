"""The question of a study, checked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.hardware.find import device_for
from dipc.memory.flash import FlashReadOptions
from dipc.quantities import parse_bandwidth
from dipc.studies.options import DeviceGrid, StudySearch
from dipc.studies.study.method_grid import Variant, method_grid, works_online
from dipc.studies.study.pricing import DeviceSetting

T = TypeVar("T")


@dataclass(frozen=True)
class Increase:
    """A perplexity that is allowed over the dense model's: so much more, or a share of it."""

    amount: float
    is_share: bool

    def of(self, dense_perplexity: float) -> float:
        """Return how much more that is."""
        return self.amount * dense_perplexity if self.is_share else self.amount


@dataclass(frozen=True)
class StudySpec:
    """Everything that a study goes over.

    Attributes:
        variants: methods with their gammas and policies, without the dense model.
        densities: that were listed, the highest first.
        policies: of programs that follow no cache.
        settings: the device with every DRAM and flash.
        increases: of perplexity, for targets.
        step: of the grid on which densities between the listed ones are searched; 0 for no search.
        reads: how missed units are read.
    """

    variants: tuple[Variant, ...]
    densities: tuple[float, ...]
    policies: tuple[str, ...]
    settings: tuple[DeviceSetting, ...]
    increases: tuple[Increase, ...]
    step: float
    reads: FlashReadOptions

    @property
    def dense_policy(self) -> str:
        """Under which the dense model is priced: the first that caches at all."""
        return next((p for p in self.policies if get_policy(p).capacity(1) > 0), self.policies[0])


def parse_spec(
    methods: str | Sequence[str],
    densities: Sequence[float],
    devices: DeviceGrid,
    search: StudySearch,
    calibration: str | None,
    model_bytes: Callable[[], float],
) -> StudySpec:
    """Check and complete what a study is asked for; the arguments are those of `run_study`.

    The size of the model is asked for only where a share of it is.

    Raises:
        UsageError: a list that is empty, a value that cannot be, or nothing left to do.
    """
    listed_densities = _each("density", densities, _share)
    gammas = _each("gamma", search.gammas, _share)
    policies = _each("policy", devices.policies, lambda name: get_policy(name).name)
    if not 0 <= search.step < 1:
        raise UsageError(f"step is {search.step:g}; it must be in [0, 1), and 0 searches no density")
    found = tuple(method_grid(methods, listed_densities, gammas, policies, calibration))
    _check_any(methods, found, listed_densities, policies)
    settings = [
        _setting(devices.hardware, size, rate, model_bytes)
        for size in _each("dram", devices.dram or [None], _unchecked)
        for rate in _each("flash", devices.flash or [None], _unchecked)
    ]
    reads = devices.reads or FlashReadOptions()
    for setting in settings:
        reads.check(setting.device)
    return StudySpec(
        found,
        tuple(sorted(listed_densities, reverse=True)),
        policies,
        tuple({(s.dram_bytes, s.flash_bytes_per_s): s for s in settings}.values()),
        tuple(dict.fromkeys(increase(item) for item in search.max_ppl_increase)),
        search.step,
        reads,
    )


def _setting(
    hardware: str | Device, dram: str | None, flash: str | None, model_bytes: Callable[[], float]
) -> DeviceSetting:
    whole = model_bytes() if dram is not None and "%" in dram else 0.0
    return DeviceSetting(device_for(hardware, dram, flash, whole), None if flash is None else parse_bandwidth(flash))


def increase(given: str | float) -> Increase:
    """`0.2` or `5%`. UsageError for anything else, and for what is not above zero."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", str(given))
    if found is None or float(found[1]) == 0:
        raise UsageError(f'max_ppl_increase: "{given}" is no increase; write 0.2, or 5% of the dense perplexity')
    return Increase(float(found[1]) / (100 if found[2] else 1), bool(found[2]))


def _check_any(
    methods: str | Sequence[str], found: Sequence[Variant], densities: Sequence[float], policies: Sequence[str]
) -> None:
    """UsageError if methods were asked for, and nothing of them is left."""
    text = methods if isinstance(methods, str) else ",".join(methods)
    if text.strip(", ") == "dense":
        return
    if not found and not any(map(works_online, policies)):
        raise UsageError(f"policy: {', '.join(policies)} cannot steer {text} while a text runs; add one such as lfu")
    if not any(variant.row.applies_at(density) for variant in found for density in densities):
        raise UsageError(f"methods: {text} has nothing at density {', '.join(f'{d:g}' for d in densities)}")


def _each(what: str, values: Sequence[T], check: Callable[[T], T]) -> tuple[T, ...]:
    """The values, each once and checked."""
    if not values:
        raise UsageError(f"{what}: the list is empty; a study goes over at least one")
    try:
        return tuple(dict.fromkeys(check(value) for value in values))
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def _unchecked(value: T) -> T:
    """Return what `device_for` checks."""
    return value


def _share(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{value:g} is outside (0, 1]")
    return value
