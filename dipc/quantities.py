"""Quantities as people write and read them: sizes and rates with their units, numbers with three to four digits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Decimal

from dipc.errors import UsageError

_BYTES_PER_UNIT = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_JOULES_PER_UNIT = {
    "pJ": Decimal("1e-12"),
    "nJ": Decimal("1e-9"),
    "uJ": Decimal("1e-6"),
    "mJ": Decimal("1e-3"),
    "J": Decimal(1),
}
NONE = "-"
NO_BREAK = "\u2800"
"""A blank at which no line is broken, printed as a plain space; rich breaks lines at U+00A0 too."""
_PRINTED_UNITS = ("B", "kB", "MB", "GB", "TB")
# Fifteen digits stay exact in a float and are far past any device; more of them is a slip or an attack.
_QUANTITY = re.compile(r"\s*([+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([^\s0-9.].*?)?\s*")


def parse_bytes(text: str) -> int:
    """Size in bytes of `text` ("4 GB", "4 GiB", "2 kB"), rounded to a whole byte.

    Raises UsageError for a bare number, an unknown unit, and a size that is not positive.
    """
    size = int(_parse(text, suffix="", noun="size").to_integral_value(ROUND_HALF_UP))
    if size == 0:
        raise UsageError(f'"{text}" is less than one byte')
    return size


def parse_bandwidth(text: str) -> float:
    """Bandwidth in bytes per second of `text` ("60 GB/s").

    Raises UsageError for a bare number, an unknown unit, and a bandwidth that is not positive.
    """
    return float(_parse(text, suffix="/s", noun="bandwidth"))


def parse_energy(text: str) -> float:
    """Energy per byte in joules of `text` ("40 pJ/B", "5 pJ/bit", "0.04 J/GB").

    Raises UsageError for a bare number, an unknown unit, and an energy that is not positive.
    """
    found = _QUANTITY.fullmatch(text)
    joules, _, per = (found[2] or "").partition("/") if found else ("", "", "")
    size = Decimal(1) / 8 if per == "bit" else _BYTES_PER_UNIT.get(per)
    if found is None or joules not in _JOULES_PER_UNIT or size is None or Decimal(found[1]) <= 0:
        raise UsageError(f'"{text}" is no energy per byte; write "40 pJ/B", "5 pJ/bit" or "0.04 J/GB"')
    return float(Decimal(found[1]) * _JOULES_PER_UNIT[joules] / size)


def format_energy(joules_per_byte: float) -> str:
    """`joules_per_byte` with three significant digits: "40 pJ/B"."""
    return f"{joules_per_byte * 1e12:.3g} pJ/B"


def format_bytes(size_bytes: float) -> str:
    """`size_bytes` (bytes, not negative) in decimal units with three significant digits: "2.15 GB"."""
    for unit in _PRINTED_UNITS:
        digits = f"{size_bytes / _BYTES_PER_UNIT[unit]:.3g}"
        if float(digits) < 1000:
            return f"{digits} {unit}"
    return f"{float(digits):.0f} {unit}"


def format_bandwidth(bandwidth_bytes_per_s: float) -> str:
    """`bandwidth_bytes_per_s` (bytes per second, not negative) with three significant digits: "67.2 GB/s"."""
    return f"{format_bytes(bandwidth_bytes_per_s)}/s"


def format_chunk(size_bytes: int) -> str:
    """A read or page size: "4 KiB" where it is a whole number of KiB, as flash pages are, else as `format_bytes`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes >= _BYTES_PER_UNIT[unit] and size_bytes % _BYTES_PER_UNIT[unit] == 0:
            return f"{size_bytes // _BYTES_PER_UNIT[unit]} {unit}"
    return format_bytes(size_bytes)


def _parse(text: str, suffix: str, noun: str) -> Decimal:
    """Bytes, or bytes per second, of `text`, whose unit ends in `suffix`."""

    def example(number: str) -> str:
        return f'write "{number} GB{suffix}" or "{number} GiB{suffix}"'

    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise UsageError(f'"{text}" is not a {noun}; {example("4")}')
    number, unit = found[1], found[2]
    if Decimal(number) <= 0:
        raise UsageError(f'"{text}" must be greater than zero')
    if unit is None:
        raise UsageError(f'"{text}" has no unit; {example(number)}')
    factor = _BYTES_PER_UNIT.get(unit.removesuffix(suffix)) if unit.endswith(suffix) else None
    if factor is None:
        raise UsageError(f'"{text}" has the unknown unit "{unit}"; {_correction(number, unit, suffix, example)}')
    return Decimal(number) * factor


def _correction(number: str, unit: str, suffix: str, example: Callable[[str], str]) -> str:
    """The same number with the unit that was probably meant, or else the general example."""
    bare = unit.removesuffix("/s")
    if bare in _BYTES_PER_UNIT:  # a size where a bandwidth belongs, or the other way round
        return f'write "{number} {bare}{suffix}"'
    return example(number)


def number(value: float | None, digits: int = 4) -> str:
    """A count in full, a measure with so many significant digits; "-" for None."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")


def share(value: float | None) -> str:
    """A density with three significant digits and no zeros at its end: "0.5", "1"; "-" for None."""
    return NONE if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share of 1 as a percentage with one decimal; "-" for None."""
    return NONE if value is None else f"{100 * value:.1f} %"


def ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` -> `0-2,5`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
