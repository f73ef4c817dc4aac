"""Quantities as people write and read them: sizes and rates with their units, numbers with three to four digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
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
_GIGABYTES_AT_MOST = 128
"""Bare numbers up to here may be gigabytes; greater ones are as likely megabytes, or the bytes of a page."""
# Fifteen digits stay exact in a float and are far past any device; more of them is a slip or an attack.
_QUANTITY = re.compile(r"\s*([+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([^\s0-9.].*?)?\s*")
# What people write instead. A number may have a decimal comma, an exponent or separators, a unit other letters.
_OF_NUMBER = re.compile(r"[,_']|[eE][+-]?[0-9]")
_SLIP = re.compile(
    r"\s*(?P<number>[+]?[0-9.,]+(?:[ _'][0-9]{3})*(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]{1,2})?)"
    r"\s*(?P<unit>[A-Za-z]+?)(?P<per_s>\s*/\s*s|\s*/\s*sec(?:ond)?|ps|\s+per\s+sec(?:ond)?)?\s*"
)
_THOUSANDS = re.compile(
    r"(?P<head>[+]?[1-9][0-9]{0,2})(?P<groups>(?P<mark>[ _',.])[0-9]{3}(?:(?P=mark)[0-9]{3})*)(?:[.,](?P<rest>[0-9]+))?"
)
_DECIMAL = re.compile(r"[+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_UNIT_LETTERS = re.compile(r"([kKmMgGtTpP]?)([iI]?)([bB](?:its?|ytes?)?|)")
_UNIT_WORD = re.compile(r"(kilo|mega|giga|tera|peta|kibi|mebi|gibi|tebi|pebi|)(byte|bit)s?")
_PREFIX_WORDS = {"": ""} | {
    word: word[0].upper().replace("K", "k") if word[2:] != "bi" else word[0].upper() + "i"
    for word in ("kilo", "mega", "giga", "tera", "peta", "kibi", "mebi", "gibi", "tebi", "pebi")
}


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
        raise UsageError(f'"{text}" is no energy per byte; write it as in "40 pJ/B", "5 pJ/bit" or "0.04 J/GB"')
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
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise UsageError(f'"{text}" is not a {noun}; {_advice(text, suffix)}')
    number, unit = found[1], found[2]
    if unit is not None and _OF_NUMBER.match(unit):
        raise UsageError(f'"{text}" is not a {noun}; {_advice(text, suffix)}')
    if Decimal(number) <= 0:
        raise UsageError(f'"{text}" must be greater than zero')
    if unit is None:
        raise UsageError(f'"{text}" has no unit; {_with_unit(number, suffix)}')
    factor = _BYTES_PER_UNIT.get(unit.removesuffix(suffix)) if unit.endswith(suffix) else None
    if factor is None:
        raise UsageError(f'"{text}" has the unknown unit "{unit}"; {_advice(text, suffix)}')
    return Decimal(number) * factor


def _with_unit(number: str, suffix: str) -> str:
    """Advice for a bare number: gigabytes if it is one that devices have, else every unit, as it may be bytes."""
    if Decimal(number) <= _GIGABYTES_AT_MOST:
        return f'write "{number} GB{suffix}" or "{number} GiB{suffix}"'
    units = [unit + suffix for unit in _BYTES_PER_UNIT if unit != "KB"]
    return f"write {', '.join(units[:-1])} or {units[-1]} after it"


def _advice(text: str, suffix: str) -> str:
    """The quantity that `text` surely means, written right; where none is sure, two that anybody can tell are examples.

    What is proposed parses, and is as many bytes as `text` says.
    """
    meant = _meant(text, suffix)
    return f'write "{meant}"' if meant else f'write it as in "4 GB{suffix}" or "4 GiB{suffix}"'


def _meant(text: str, suffix: str) -> str | None:
    """`text` as a quantity of bytes, or of bytes per second where `suffix` is "/s"; None if it may mean several."""
    found = _SLIP.fullmatch(text)
    if found is None:
        return None
    value = _plain_number(found["number"])
    unit = _unit_meant(found["unit"], rate=bool(suffix), per_s=found["per_s"] is not None)
    if value is None or unit is None or value <= 0:
        return None
    prefix, bits = unit
    if prefix[:1] == "P":
        value, prefix = value * (1024 if prefix == "Pi" else 1000), prefix.replace("P", "T")
    if bits or "e" in found["number"].lower():
        value, prefix = _in_handy_units(value / 8 if bits else value, prefix)
    proposal = f"{value.normalize():f} {prefix}B{suffix}"
    return proposal if _QUANTITY.fullmatch(proposal) else None


def _plain_number(text: str) -> Decimal | None:
    """The number that is written with a decimal comma, separators of thousands or an exponent; None if unclear."""
    found = _THOUSANDS.fullmatch(text)
    if found is not None:
        mark, rest = found["mark"], found["rest"]
        if mark in ",." and (found["groups"] if rest is None else text[-len(rest) - 1]).count(mark) == 1:
            return None  # "4,200" is 4200 to some and 4.2 to others
        text = found["head"] + found["groups"].replace(mark, "") + ("" if rest is None else f".{rest}")
    text = text.replace(",", ".")
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _unit_meant(unit: str, *, rate: bool, per_s: bool) -> tuple[str, bool] | None:
    """Prefix ("" to "P", "Ki" to "Pi"; kilo as "k") and whether bits are meant; None if that is not certain.

    A small b is bits in a rate whose prefix is right ("Gb/s"), and bytes in a size without any capital ("gb").
    """
    word = _UNIT_WORD.fullmatch(unit.lower())
    if word is not None:
        return _PREFIX_WORDS[word[1] or ""], word[2] == "bit"
    found = _UNIT_LETTERS.fullmatch(unit)
    if found is None or (found[2] and not found[1]):
        return None
    prefix, binary, letter = found[1], found[2].lower(), found[3]
    bits = letter[1:3] == "it"
    if letter == "b":
        bits = rate and per_s and (prefix == "k" or prefix.isupper())
        if not bits and (rate or per_s or not prefix.islower()):
            return None
    if not letter and (rate or prefix in "kK"):  # also none at all; "16K" is 16 KiB to some and 16 kB to others
        return None if not binary or rate else (prefix.upper() + binary, False)
    return ("k" if prefix in "kK" and not binary else prefix.upper()) + binary if prefix else "", bits


def _in_handy_units(value: Decimal, prefix: str) -> tuple[Decimal, str]:
    """The same amount with the decimal unit that leaves a number from 1 to 1000."""
    steps = ["", "k", "M", "G", "T"]
    if prefix in steps:
        place = steps.index(prefix)
        while value >= 1000 and place < len(steps) - 1:
            value, place = value / 1000, place + 1
        while value < 1 and place > 0:
            value, place = value * 1000, place - 1
        prefix = steps[place]
    return value, prefix


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


def perplexity_of(nll: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood in nats; infinite where that is more than a float holds."""
    try:
        return math.exp(nll / tokens)
    except OverflowError:
        return math.inf


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
