"""The flash part of a device file: a bandwidth or a curve of points, and a page."""

from __future__ import annotations

from typing import NamedTuple, cast, get_args

from dipc.errors import UsageError
from dipc.hardware.figure_file import figure_of, read_figure, read_quantity
from dipc.hardware.flash_curve import Access, Flash, FlashPoint
from dipc.hardware.strict_yaml import Entry, Reader
from dipc.quantities import format_bandwidth, format_chunk, parse_bandwidth, parse_bytes

_ROUNDING = 0.99
"""Published rates are rounded: times within a percent contradict nothing."""


class _Read(NamedTuple):
    """A point and where it stands in the file."""

    point: FlashPoint
    part: dict[str, Entry]


def read_flash(reader: Reader, entry: Entry | None) -> Flash | None:
    """The flash of an entry with `bandwidth` and perhaps `page`; None if anything is wrong, which is then reported."""
    if entry is None:
        return None
    part = reader.mapping(entry, ("bandwidth",), optional=("page",))
    bandwidth = part.get("bandwidth")
    page = read_figure(reader, part.get("page"), parse_bytes)
    if bandwidth is None:
        return None
    if not reader.is_list(bandwidth):
        figure = read_figure(reader, bandwidth, parse_bandwidth)
        return None if figure is None else Flash((FlashPoint(1, figure),), page)
    read = _points(reader, bandwidth)
    if read is None:
        return None
    _check_kinds(reader, bandwidth, read)
    _check_order(reader, read)
    _check_times(reader, read)
    smallest = min(point.chunk_bytes for point, _ in read)
    if page is not None and page.value > smallest:
        what = f"{format_chunk(page.value)} is more than the smallest chunk, {format_chunk(smallest)}"
        reader.report(part["page"].line, part["page"].key, f"{what}; no read is smaller than a page")
    return Flash(tuple(point for point, _ in read), page)


def _points(reader: Reader, entry: Entry) -> list[_Read] | None:
    items = reader.items(entry)
    if len(items) < 2:
        reader.report(entry.line, entry.key, "a curve needs two points or more; for one, write value, source and kind")
    read = []
    for item in items:
        part = reader.mapping(item, ("chunk", "bandwidth", "source", "kind"), optional=("access", "queue_depth"))
        chunk = read_quantity(reader, part.get("chunk"), parse_bytes)
        figure = figure_of(reader, part, part.get("bandwidth"), parse_bandwidth)
        access = read_quantity(reader, part.get("access"), _parse_access)
        depth = read_quantity(reader, part.get("queue_depth"), _parse_depth)
        if chunk is not None and figure is not None:
            read.append(_Read(FlashPoint(chunk, figure, access, depth), part))
    return read if len(read) == len(items) > 1 else None


def _check_kinds(reader: Reader, entry: Entry, read: list[_Read]) -> None:
    """Either all points name their access, both kinds, or none; and so for the queue depth within an access."""
    accesses = {point.access for point, _ in read}
    if accesses not in ({None}, {"random", "sequential"}):
        if None in accesses:
            what = "some points name their access and some do not; give it to all or to none"
        else:
            what = f"has {accesses.pop()} reads only; give points of both accesses, or leave access out"
        reader.report(entry.line, entry.key, what)
    for access in accesses:
        depths = {point.queue_depth for point, _ in read if point.access == access}
        if None in depths and len(depths) > 1:
            of = "" if access is None else f" of {access} reads"
            what = f"some points{of} name their queue depth and some do not; give it to all or to none"
            reader.report(entry.line, entry.key, what)


def _check_order(reader: Reader, read: list[_Read]) -> None:
    last: dict[tuple[Access | None, int | None], int] = {}
    for point, part in read:
        before = last.get((point.access, point.queue_depth), 0)
        if point.chunk_bytes <= before:
            reader.report(
                part["chunk"].line,
                part["chunk"].key,
                f"{format_chunk(point.chunk_bytes)} is not larger than the chunk before it, {format_chunk(before)}; "
                "list the points by rising chunk size",
            )
        last[point.access, point.queue_depth] = max(before, point.chunk_bytes)


def _check_times(reader: Reader, read: list[_Read]) -> None:
    """No read in order is slower than the same read out of order, and no read takes less time than a smaller one."""
    for point, part in read:
        problems = (_contradiction(point, other) for other, _ in read)
        what = next((problem for problem in problems if problem), None)
        if what is not None:
            reader.report(part["bandwidth"].line, part["bandwidth"].key, what)


def _contradiction(point: FlashPoint, other: FlashPoint) -> str | None:
    if point.queue_depth is not None and other.queue_depth is not None and point.queue_depth != other.queue_depth:
        return None
    chunk, value, than = format_chunk(point.chunk_bytes), point.bandwidth.value, other.bandwidth.value
    if (point.access, other.access) == ("sequential", "random") and point.chunk_bytes == other.chunk_bytes:
        rates = f"{format_bandwidth(value)} are slower than random ones, {format_bandwidth(than)}"
        return f"sequential reads of {chunk} at {rates}" if value < than else None
    if point.access != other.access or point.chunk_bytes <= other.chunk_bytes:
        return None
    sooner = point.chunk_bytes / value < _ROUNDING * other.chunk_bytes / than
    return f"a read of {chunk} would take less time than one of {format_chunk(other.chunk_bytes)}" if sooner else None


def _parse_access(text: str) -> Access:
    if text not in get_args(Access):
        raise UsageError(f'"{text}" is neither random nor sequential')
    return cast(Access, text)


def _parse_depth(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**16:
        raise UsageError(f'"{text}" is no queue depth; write a whole number of reads under way, such as 32')
    return int(text)
