"""The KV cache of layers with a sliding window: at most the window is counted, in every price."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dipc.api import Program, capture, compile, estimate, to_dict
from dipc.backends.eager import EagerSession
from dipc.hardware.find import load_device
from dipc.memory.allocation import allocate
from dipc.memory.lowering import lower
from dipc.memory.traffic import KvWindow, TrafficProgram
from dipc.report.sites import program_dict, program_tables
from kit.tiny_models import random_ids, tiny_model

LAYER = 128
"""Bytes per position of a layer: keys and values of 2 heads of 16 numbers of 16 bits."""


@cache
def gemma3() -> Program:
    """Six layers, of which five have a window of 16."""
    options = {"head_dim": 16, "num_hidden_layers": 6, "sliding_window": 16, "max_position_embeddings": 1024}
    return capture(tiny_model("gemma3_text", **options), name="gemma3")


def test_a_window_counts_no_more_than_it_keeps() -> None:
    traffic = lower(gemma3())
    assert traffic.kv_bytes_per_position == 6 * LAYER
    assert traffic.kv_windows == (KvWindow(16, 5, 5 * LAYER),)
    assert traffic.kv_bytes(1000) == (1000 + 5 * 16) * LAYER == 138_240
    assert [traffic.kv_bytes(n) for n in (0, 1, 16, 17)] == [0, 768, 12_288, 12_288 + LAYER]


def test_the_count_is_what_a_session_keeps() -> None:
    """In float32, of which the count takes half."""
    program, ids = gemma3(), random_ids(40)
    session = EagerSession(program)
    session.step(ids[:38])
    for token in ids[38:].split(1):
        session.step(token)
        held = sum(session.state(p.name).nbytes for p in program.carried) / 2
        assert held == lower(program).kv_bytes(session.position)


def test_every_price_counts_the_window() -> None:
    traffic, context = lower(gemma3()), 1000
    dram = int(traffic.total_bytes) + 200_000
    assert allocate(traffic, dram, context).kv_bytes == 138_240
    device = load_device("a18").with_dram_available(dram)
    found = to_dict(estimate(compile(gemma3(), "outline-glu").program, hardware=device, context=context))
    assert found["dense"]["dram"]["kv_bytes"] == 138_240


def test_inspect_says_which_layers_have_a_window() -> None:
    assert to_dict_of_program()["kv_windows"] == [{"positions": 16, "layers": 5, "bytes_per_position": 640.0}]
    parts = program_tables(gemma3(), [])
    screen = Console(width=200, record=True, file=io.StringIO())
    for part in parts:
        screen.print(part)
    text = screen.export_text()
    assert "768 B per position, 640 B of them in 5 layers that keep 16 positions" in text


def to_dict_of_program() -> Any:
    return json.loads(json.dumps(program_dict(gemma3(), [])))["totals"]


@given(
    st.integers(0, 5000),
    st.lists(st.builds(KvWindow, st.integers(2, 4096), st.just(1), st.integers(1, 4096).map(float)), max_size=3),
    st.integers(0, 4096),
)
def test_a_cache_is_the_sum_of_its_layers(context: int, windows: list[KvWindow], full: int) -> None:
    per_position = full + sum(w.bytes_per_position for w in windows)
    traffic = TrafficProgram(1.0, (), per_position, "x", kv_windows=tuple(windows))
    expected = full * context + sum(min(context, w.positions) * w.bytes_per_position for w in windows)
    assert traffic.kv_bytes(context) == pytest.approx(expected)
    assert traffic.kv_bytes(context) <= traffic.kv_bytes(context + 1)
