"""Timelines: the reads of one token, of some points of a study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from dipc.cache.policy import get_policy
from dipc.documents import JsonObject
from dipc.memory.timeline import timeline
from dipc.studies.study.findings import middle_flash
from dipc.studies.study.method_grid import DENSE
from dipc.studies.study.points import Points
from dipc.studies.study.result import Point, Study


def timelines(found: Study, points: Points) -> Iterator[JsonObject]:
    """The token of median latency of some points, as plain values."""
    for point in _shown(found):
        price = points.price(point)
        if price is not None:
            token = int(np.argsort(price.latency_s, kind="stable")[price.tokens // 2])
            events = [asdict(event) for event in timeline(price, token)]
            yield {"point": point.id, "token": token, "latency_s": float(price.latency_s[token]), "events": events}


def _shown(found: Study) -> Iterator[Point]:
    """On the device with the least DRAM: dense, and of each method the fastest within the first limit or of all."""
    priced = [p for p in found.points if p.cost and p.flash_bytes_per_s == middle_flash(found)]
    least = min((p.dram_bytes for p in priced), default=0)
    here = [p for p in priced if p.dram_bytes == least]
    yield from (p for p in here if p.method == DENSE)
    first = min((t.max_ppl_increase for t in found.targets), default=float("inf"))
    for method in dict.fromkeys(p.method for p in here if p.method != DENSE):
        own = [p for p in here if p.method == method and get_policy(p.policy).online]
        within = [p for p in own if p.perplexity is None or p.perplexity <= (found.dense_perplexity or 0) + first]
        yield from sorted(within or own, key=lambda p: -p.throughput)[:1]
