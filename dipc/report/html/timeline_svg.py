"""One token's reads as SVG: for each program a track of flash and one of DRAM, all on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence

from dipc.memory.timeline import TRACKS, ReadEvent, Timeline
from dipc.quantities import format_bytes, number
from dipc.report.html.chart_svg import Size, drawing, text
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.scale import Scale, ticks

_LEFT, _RIGHT = 46.0, 24.0
_NAME, _TRACK, _GAP, _AXIS = 26.0, 24.0, 14.0, 44.0


def timelines_svg(timelines: Sequence[tuple[str, Timeline]], width: float, kind: str) -> Markup:
    """The timelines with their names, one below the other.

    Args:
        timelines: at least one.
        width: of the drawing, in pixels.
        kind: its class in the style sheet.
    """
    block = _NAME + len(TRACKS) * _TRACK + _GAP
    size = Size(width, len(timelines) * block + _AXIS, kind)
    longest = max(timeline.latency_s for _, timeline in timelines)
    time = Scale(0.0, longest * 1000 or 1.0, False, _LEFT, width - _RIGHT)
    parts = [_axis(time, size)]
    for place, (name, timeline) in enumerate(timelines):
        parts.append(_timeline(name, timeline, time, place * block))
    said = "; ".join(f"{name}: {number(1000 * timeline.latency_s)} ms" for name, timeline in timelines)
    return drawing("timeline", size, f"Reads of one token over time. {said}", *parts)


def _timeline(name: str, timeline: Timeline, time: Scale, top: float) -> Markup:
    latency = f"{number(1000 * timeline.latency_s)} ms"
    parts = [text(0, top + 16, f"{name}: {latency}", "track-title")]
    for row, (track, label) in enumerate(TRACKS.items()):
        y = top + _NAME + row * _TRACK
        parts.append(text(0, y + 15, label, "tick"))
        lane = element("rect", x=_LEFT, y=y, width=_px(time.end - _LEFT), height=_TRACK - 3, class_="lane", rx=3)
        parts.append(lane)
        parts += [_event(event, time, y) for event in timeline.events if event.track == track]
    end = _px(time(1000 * timeline.latency_s))
    parts.append(element("path", d=f"M{end} {_px(top + _NAME - 3)}v{_px(len(TRACKS) * _TRACK + 3)}", class_="end"))
    return joined(*parts)


def _event(event: ReadEvent, time: Scale, y: float) -> Markup:
    start, end = time(1000 * event.start_s), time(1000 * (event.start_s + event.duration_s))
    layer = "" if event.layer is None else f", layer {event.layer}"
    said = (
        f"{event.name}{layer}\n{format_bytes(event.bytes)} from {TRACKS[event.track]}\n"
        f"{number(1000 * event.duration_s, 3)} ms, from {number(1000 * event.start_s, 3)} ms on"
    )
    tint = "rest" if event.layer is None else "odd" if event.layer % 2 else "even"
    # A read too short to see is still there to be pointed at.
    return element(
        "rect",
        element("title", said),
        x=_px(start),
        y=y,
        width=_px(max(end - start, 0.4)),
        height=_TRACK - 3,
        class_=f"read {event.track} {tint}",
    )


def _axis(time: Scale, size: Size) -> Markup:
    bottom = size.height - _AXIS + 4
    parts = []
    for value in ticks(time, round((time.end - time.start) / 90) + 1):
        at = _px(time(value))
        parts.append(element("path", d=f"M{at} 20V{_px(bottom)}", class_="grid"))
        parts.append(text(time(value), bottom + 16, f"{value:,.6g}", "tick", "middle"))
    parts.append(text((time.start + time.end) / 2, size.height - 6, "ms since the token's start", "axis", "middle"))
    return joined(*parts)


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
