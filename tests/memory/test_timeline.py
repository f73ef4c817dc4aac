"""One token's reads: worked by hand, against the price that they come from, and as a trace for Perfetto."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.hardware.find import load_device
from dipc.memory.allocation import allocate
from dipc.memory.pricing import Price, price
from dipc.memory.timeline import RESIDENT, ReadEvent, Timeline, perfetto, timeline
from dipc.memory.trace import Trace
from dipc.memory.traffic import Site, TrafficProgram

MB = 10**6


def site(name: str, layer: int) -> Site:
    """Four units of 1 MB."""
    return Site(name, layer, 4, MB, (f"{name}.weight",), False, MB)


def device(overlap: bool) -> Device:
    """Flash at 1 GB/s and DRAM at 10 GB/s: 1 ms and 0.1 ms for a unit."""
    whole = load_device("a18").with_flash_bandwidth(1e9).with_dram_available(7 * MB)
    dram = dataclasses.replace(whole.dram, bandwidth=dataclasses.replace(whole.dram.bandwidth, value=1e10))
    return dataclasses.replace(whole, dram=dram, overlapped=dataclasses.replace(whole.overlapped, value=overlap))


def priced(overlap: bool = True) -> Price:
    """Two layers of which two of four units fit; 3 MB are resident. The sites are not in the order of the layers."""
    traffic = TrafficProgram(3 * MB, (site("layers.10.glu", 10), site("layers.2.glu", 2)), 0.0, "by hand")
    masks = {"layers.10.glu": [[1, 1, 0, 0], [0, 1, 1, 0]], "layers.2.glu": [[1, 0, 0, 0], [1, 0, 0, 0]]}
    packed = {name: np.packbits(np.array(mask, bool), axis=-1) for name, mask in masks.items()}
    trace = Trace(packed, dict.fromkeys(masks, 4), {})
    asked = device(overlap)
    return price(traffic, allocate(traffic, asked.dram_available, 0), asked, get_policy("lru"), trace)


def test_overlapped_reads_start_together() -> None:
    # Token 1: layer 2 hits its unit; layer 10 hits one of two.
    events = timeline(priced(), 1)
    assert [(e.name, e.layer, e.track, e.bytes) for e in events] == [
        (RESIDENT, None, "dram", 3 * MB),
        ("layers.2.glu", 2, "dram", MB),
        ("layers.10.glu", 10, "flash", MB),
        ("layers.10.glu", 10, "dram", MB),
    ]
    assert [e.start_s for e in events] == pytest.approx([0, 0.3e-3, 0, 0.4e-3])
    assert [e.duration_s for e in events] == pytest.approx([0.3e-3, 0.1e-3, 1e-3, 0.1e-3])


def test_reads_follow_each_other_where_nothing_overlaps() -> None:
    events = timeline(priced(overlap=False), 1)
    assert [e.start_s for e in events] == pytest.approx([0, 0.3e-3, 0.4e-3, 1.4e-3])


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("token", [0, 1])
def test_the_last_read_ends_with_the_token(overlap: bool, token: int) -> None:
    found = priced(overlap)
    events = timeline(found, token)
    assert max(e.start_s + e.duration_s for e in events) == pytest.approx(found.latency_s[token])
    assert sum(e.bytes for e in events if e.track == "flash") == pytest.approx(found.flash_bytes[token])
    assert sum(e.bytes for e in events if e.track == "dram") == pytest.approx(found.dram_bytes[token])


@pytest.mark.parametrize("token", [-1, 2])
def test_a_token_that_is_not_there(token: int) -> None:
    with pytest.raises(UsageError, match="has 2 tokens, counted from 0"):
        timeline(priced(), token)


def test_perfetto() -> None:
    events = [ReadEvent("layers.0.glu", 0, "flash", 0.001, 0.002, 5.0), ReadEvent(RESIDENT, None, "dram", 0, 0.5, 7.0)]
    found: dict[str, Any] = perfetto([("dense", events), ("dip", events[:1])])
    named = [(e["name"], e["pid"], e["tid"], e["args"]["name"]) for e in found["traceEvents"] if e["ph"] == "M"]
    assert named == [
        ("process_name", 1, 0, "dense"),
        ("thread_name", 1, 1, "flash"),
        ("thread_name", 1, 2, "DRAM"),
        ("process_name", 2, 0, "dip"),
        ("thread_name", 2, 1, "flash"),
        ("thread_name", 2, 2, "DRAM"),
    ]
    drawn = [e for e in found["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["pid"], e["tid"], e["ts"], e["dur"]) for e in drawn] == [
        ("layers.0.glu", 1, 1, 1000.0, 2000.0),
        (RESIDENT, 1, 2, 0, 500_000.0),
        ("layers.0.glu", 2, 1, 1000.0, 2000.0),
    ]
    assert drawn[0]["args"] == {"bytes": 5.0, "layer": 0} and drawn[1]["args"] == {"bytes": 7.0}


def test_a_timeline_is_read_back() -> None:
    event = {"name": "a", "layer": 1, "track": "flash", "start_s": 0.0, "duration_s": 1.0, "bytes": 2.0}
    found = Timeline.from_dict({"point": "p", "token": 3, "latency_s": 1.0, "events": [event]})
    assert found == Timeline("p", 3, 1.0, (ReadEvent("a", 1, "flash", 0.0, 1.0, 2.0),))
