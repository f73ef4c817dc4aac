"""Memory that is given back to the system: resident memory falls, where the system tells and can."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from dipc.evaluation import heap
from dipc.evaluation.heap import give_back


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much memory is resident")
def test_freed_memory_goes_back() -> None:
    if heap._trim() is None:
        pytest.skip("this C library has no malloc_trim")
    blocks = [ctypes.create_string_buffer(100_000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, len(block))
    del block, blocks[::2]  # what is left keeps the holes from going back by themselves
    before = resident_bytes()
    give_back()
    assert before - resident_bytes() > 30_000_000
    assert len(blocks) == 500


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    give_back()
    heap._trim.cache_clear()
