"""`dipc estimate` and its options for reads, on the demo model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dipc
from dipc.errors import UsageError
from dipc.evaluation.estimate import Estimate
from dipc.memory.flash import FlashReadOptions
from dipc.memory.flash.options import gap_bytes
from dipc.memory.trace import Trace
from dipc.report.estimate import estimate_dict, write_timeline


@pytest.fixture(scope="module")
def program() -> dipc.Program:
    return dipc.compile("demo", "dip").program


@pytest.fixture(scope="module")
def trace(program: dipc.Program) -> Trace:
    found = dipc.evaluate(program, max_tokens=96, seq_len=48, record=True).trace
    assert found is not None
    return found


def estimated(program: dipc.Program, trace: Trace, **options: Any) -> Estimate:
    return dipc.estimate(program, options.pop("hw", "ufs-4.0"), dram="50%", trace=trace, **options)


def test_options_show_beside_the_usual_reads(program: dipc.Program, trace: Trace) -> None:
    usual = estimated(program, trace)
    joined = estimated(program, trace, reads=FlashReadOptions(over_read_bytes=8192, layout="co-activation"))
    assert usual.sparse and joined.sparse and joined.baseline and usual.baseline is None
    assert joined.baseline.throughput == usual.sparse.throughput
    assert joined.sparse.reads_per_token < usual.sparse.reads_per_token
    found = estimate_dict(joined)
    assert found["reads"]["over_read_bytes"] == 8192
    assert found["usual"]["flash_reads_per_token"] == usual.sparse.reads_per_token
    assert found["sparse"]["energy_j_per_token"] == joined.sparse.energy_j_per_token is not None


def test_the_papers_device_has_no_pages_and_its_figures_stay(program: dipc.Program, trace: Trace) -> None:
    found = estimated(program, trace, hw="a18")
    assert found.sparse is not None and found.sparse.read_amplification == 1
    assert found.sparse.flash_s.tolist() == pytest.approx((found.sparse.flash_bytes / 1e9).tolist())


def test_a_timeline_is_written(program: dipc.Program, trace: Trace, tmp_path: Path) -> None:
    write_timeline(estimated(program, trace), tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {"dense", "dip"}


def test_what_cannot_be_asked_is_one_line(program: dipc.Program, trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lfu does not rank by popularity"):
        estimated(program, trace, calibration=tmp_path / "none")
    with pytest.raises(UsageError, match=r"a18 gives no flash\.page"):
        estimated(program, trace, hw="a18", reads=FlashReadOptions(align=True))
    with pytest.raises(UsageError, match="has no unit"):
        gap_bytes("8")
    with pytest.raises(UsageError, match=r"t\.json: cannot be written"):
        write_timeline(estimated(program, trace), tmp_path / "none" / "t.json")


def test_belady_and_a_counted_hot_set_price_what_follows_no_cache(program: dipc.Program, trace: Trace) -> None:
    rates = {policy: estimated(program, trace, policy=policy).sparse for policy in ("lru", "lfu", "static", "belady")}
    best = rates["belady"]
    assert best is not None and all(price is not None and price.hit_rate <= best.hit_rate for price in rates.values())
    static = rates["static"]
    assert static is not None and static.popularity.startswith("counted on the first")
