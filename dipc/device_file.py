"""The schema of a device file: which keys it has and what each may hold (hwmodels/README.md explains them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast, get_args

from dipc.errors import UsageError
from dipc.hardware import Device, Dram, Figure, Flash, FlashPoint, Kind
from dipc.quantities import format_bytes, format_chunk, parse_bandwidth, parse_bytes
from dipc.strict_yaml import Entry, Reader

T = TypeVar("T")

_KINDS: tuple[str, ...] = get_args(Kind)
_FIGURE = ("value", "source", "kind")


def read_device(path: str) -> tuple[Device | None, list[str]]:
    """The device in the file at `path`, or None and one line for each of the file's problems.

    Raises UsageError if there is no such file.
    """
    reader = Reader(path)
    root = reader.compose()
    device = None if root is None else _device(reader, root)
    problems = reader.problems()
    return (None, problems) if problems else (device, problems)


def _device(reader: Reader, root: Entry) -> Device | None:
    part = reader.mapping(root, ("name", "description", "dram", "flash", "overlap"))
    name = _name(reader, part.get("name"))
    description = reader.text(part.get("description"))
    dram = _dram(reader, part.get("dram"))
    flash = _flash(reader, part.get("flash"))
    overlapped = _figure(reader, part.get("overlap"), _parse_bool)
    if name is None or description is None or dram is None or flash is None or overlapped is None:
        return None
    return Device(name, description, dram, flash, overlapped)


def _name(reader: Reader, entry: Entry | None) -> str | None:
    name, stem = reader.text(entry), Path(reader.path).stem
    if entry is not None and name is not None and name != stem:
        reader.report(entry.line, entry.key, f'"{name}" is not the file\'s name; write "{stem}" or rename the file')
    return name


def _dram(reader: Reader, entry: Entry | None) -> Dram | None:
    if entry is None:
        return None
    part = reader.mapping(entry, ("capacity", "available", "bandwidth"))
    capacity = _figure(reader, part.get("capacity"), parse_bytes)
    available = _figure(reader, part.get("available"), parse_bytes)
    bandwidth = _figure(reader, part.get("bandwidth"), parse_bandwidth)
    if capacity is not None and available is not None and available.value > capacity.value:
        reader.report(
            part["available"].line,
            part["available"].key,
            f"{format_bytes(available.value)} is more than the capacity, {format_bytes(capacity.value)}",
        )
    if capacity is None or available is None or bandwidth is None:
        return None
    return Dram(capacity, available, bandwidth)


def _flash(reader: Reader, entry: Entry | None) -> Flash | None:
    bandwidth = None if entry is None else reader.mapping(entry, ("bandwidth",)).get("bandwidth")
    if bandwidth is None:
        return None
    if reader.is_list(bandwidth):
        return _curve(reader, bandwidth)
    figure = _figure(reader, bandwidth, parse_bandwidth)
    return None if figure is None else Flash((FlashPoint(1, figure),))


def _curve(reader: Reader, entry: Entry) -> Flash | None:
    points = []
    last_chunk = 0
    items = reader.items(entry)
    if len(items) < 2:
        reader.report(entry.line, entry.key, "a curve needs two points or more; for one, write value, source and kind")
    for item in items:
        part = reader.mapping(item, ("chunk", "bandwidth", "source", "kind"))
        chunk = _quantity(reader, part.get("chunk"), parse_bytes)
        figure = _figure_of(reader, part, part.get("bandwidth"), parse_bandwidth)
        if chunk is not None and chunk <= last_chunk:
            reader.report(
                part["chunk"].line,
                part["chunk"].key,
                f"{format_chunk(chunk)} is not larger than the chunk before it, {format_chunk(last_chunk)}; "
                "list the points by rising chunk size",
            )
        last_chunk = max(last_chunk, chunk or 0)
        if chunk is not None and figure is not None:
            points.append(FlashPoint(chunk, figure))
    return Flash(tuple(points)) if len(points) == len(items) else None


def _figure(reader: Reader, entry: Entry | None, parse: Callable[[str], T]) -> Figure[T] | None:
    if entry is None:
        return None
    part = reader.mapping(entry, _FIGURE)
    value = part.get("value")
    # People think of "dram.available", not of "dram.available.value": that is the name a bad value is reported under.
    return _figure_of(reader, part, value and replace(value, key=entry.key), parse)


def _figure_of(
    reader: Reader, part: dict[str, Entry], value: Entry | None, parse: Callable[[str], T]
) -> Figure[T] | None:
    """The figure with this value and with the source and kind in `part`."""
    parsed = _quantity(reader, value, parse)
    source = reader.text(part.get("source"))
    kind = reader.text(part.get("kind"))
    if kind is not None and kind not in _KINDS:
        entry = part["kind"]
        reader.report(entry.line, entry.key, f'"{kind}" is no kind of source; write one of {", ".join(_KINDS)}')
        return None
    if parsed is None or source is None or kind is None:
        return None
    return Figure(parsed, source, cast(Kind, kind))


def _quantity(reader: Reader, entry: Entry | None, parse: Callable[[str], T]) -> T | None:
    text = reader.text(entry)
    if entry is None or text is None:
        return None
    try:
        return parse(text)
    except UsageError as error:
        reader.report(entry.line, entry.key, str(error))
        return None


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f'"{text}" is neither true nor false')
    return text == "true"
