"""Read figures from a device file: a value with its source and its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast, get_args

from dipc.errors import UsageError
from dipc.hardware.figure import Figure, Kind
from dipc.hardware.strict_yaml import Entry, Reader

T = TypeVar("T")

_KINDS: tuple[str, ...] = get_args(Kind)
_FIGURE = ("value", "source", "kind")


def read_figure(reader: Reader, entry: Entry | None, parse: Callable[[str], T]) -> Figure[T] | None:
    """The figure of an entry with `value`, `source` and `kind`; None if anything is wrong, which is then reported."""
    if entry is None:
        return None
    part = reader.mapping(entry, _FIGURE)
    value = part.get("value")
    # People think of "dram.available", not of "dram.available.value": that is the name a bad value is reported under.
    return figure_of(reader, part, value and replace(value, key=entry.key), parse)


def figure_of(
    reader: Reader, part: dict[str, Entry], value: Entry | None, parse: Callable[[str], T]
) -> Figure[T] | None:
    """The figure with this value and with the source and kind in `part`."""
    parsed = read_quantity(reader, value, parse)
    source = reader.text(part.get("source"))
    kind = reader.text(part.get("kind"))
    if kind is not None and kind not in _KINDS:
        entry = part["kind"]
        reader.report(entry.line, entry.key, f'"{kind}" is no kind of source; write one of {", ".join(_KINDS)}')
        return None
    if parsed is None or source is None or kind is None:
        return None
    return Figure(parsed, source, cast(Kind, kind))


def read_quantity(reader: Reader, entry: Entry | None, parse: Callable[[str], T]) -> T | None:
    """The value of an entry by `parse`, whose UsageError becomes a problem of the file."""
    text = reader.text(entry)
    if entry is None or text is None:
        return None
    try:
        return parse(text)
    except UsageError as error:
        reader.report(entry.line, entry.key, str(error))
        return None
