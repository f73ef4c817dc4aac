"""One token's reads over time, as a list of events and as a trace that ui.perfetto.dev and chrome://tracing open.

A price says how long the reads of each site take, not when they begin. The timeline puts them in the order of the
layers: where the device overlaps flash and DRAM, each reads on without waiting for the other and the token takes the
longer of the two; else one read follows the other, a layer's from flash before its from DRAM. What is resident
(attention, norms, head, KV cache) has one figure for the whole model: its read is drawn first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dipc.documents import JsonObject
from dipc.errors import UsageError

if TYPE_CHECKING:
    from dipc.memory.pricing import Price

Track = Literal["flash", "dram"]
TRACKS: Mapping[Track, str] = {"flash": "flash", "dram": "DRAM"}
"""The two that read, with their names."""
RESIDENT = "resident weights and KV cache"
_MICROSECONDS = 1e6


@dataclass(frozen=True)
class ReadEvent:
    """A site's reads of one token from one memory; `layer` is None for what belongs to none."""

    name: str
    layer: int | None
    track: Track
    start_s: float
    duration_s: float
    bytes: float


@dataclass(frozen=True)
class Timeline:
    """The reads of one token.

    Attributes:
        point: which program on which device, as a study names its points.
        token: of the counted ones.
        latency_s: of the token, compute not counted.
    """

    point: str
    token: int
    latency_s: float
    events: tuple[ReadEvent, ...]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Timeline:
        """From what a study's JSON holds."""
        return cls(found["point"], found["token"], found["latency_s"], tuple(ReadEvent(**e) for e in found["events"]))


def timeline(price: Price, token: int) -> list[ReadEvent]:
    """The reads of one token, in the order of the layers; reads of nothing are left out.

    Args:
        price: of a program on a device.
        token: of the price's counted tokens, from 0.

    Raises:
        UsageError: there is no such token.
    """
    if not 0 <= token < price.tokens:
        raise UsageError(f"token {token}: the price has {price.tokens} tokens, counted from 0")
    reads: list[tuple[str, int | None, Track, float, float]] = [
        (RESIDENT, None, "dram", price.resident_read_bytes / price.dram_bytes_per_s, price.resident_read_bytes)
    ]
    # `sorted` keeps the order of a layer's own sites.
    for name, site in sorted(price.sites.items(), key=lambda item: item[1].layer):
        hit_bytes = float(site.dram_bytes_T[token])
        reads.append((name, site.layer, "flash", float(site.flash_s_T[token]), float(site.flash_bytes_T[token])))
        reads.append((name, site.layer, "dram", hit_bytes / price.dram_bytes_per_s, hit_bytes))
    ends = dict.fromkeys(TRACKS, 0.0)
    events = []
    for name, layer, track, duration_s, size_bytes in reads:
        if not size_bytes:
            continue
        start_s = ends[track] if price.overlap else max(ends.values())
        events.append(ReadEvent(name, layer, track, start_s, duration_s, size_bytes))
        ends[track] = start_s + duration_s
    return events


def perfetto(timelines: Iterable[tuple[str, Iterable[ReadEvent]]]) -> JsonObject:
    """Timelines in the Trace Event Format: a process for each, with a thread per memory; times in microseconds.

    Args:
        timelines: a name and the events of each.
    """
    found: list[JsonObject] = []
    for process, (name, events) in enumerate(timelines, 1):
        found.append(_named("process_name", name, process, 0))
        threads = {track: thread for thread, track in enumerate(TRACKS, 1)}
        found += [_named("thread_name", TRACKS[track], process, thread) for track, thread in threads.items()]
        found += [
            {
                "name": event.name,
                "cat": event.track,
                "ph": "X",
                "ts": event.start_s * _MICROSECONDS,
                "dur": event.duration_s * _MICROSECONDS,
                "pid": process,
                "tid": threads[event.track],
                "args": {"bytes": event.bytes} | ({} if event.layer is None else {"layer": event.layer}),
            }
            for event in events
        ]
    return {"traceEvents": found, "displayTimeUnit": "ms"}


def _named(kind: str, name: str, process: int, thread: int) -> JsonObject:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
