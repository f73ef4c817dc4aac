"""The contest of the cache-aware selection: who takes part, and how it is told. Never speed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from rich.console import Console

from dipc.errors import MissingDependency
from dipc.report.bench import scan_dict, scan_table
from dipc.studies.bench import cache_aware
from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.cache_aware import CASE, native_scan, torch_scan, triton_scan
from dipc.studies.bench.contest import Outcome, Progress, Rules
from dipc.studies.bench.timing import Timing

WORK: dict[str, Any] = {"units": 40, "tokens": 3, "seed": 0, "threads": 1}
NOBODY = Outcome({}, ())


def entrants(monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> list[str]:
    """The names of who takes part."""
    seen: list[str] = []

    def contest(candidates: list[Candidate], rules: Rules, progress: Progress) -> Outcome:
        seen.extend(candidate.name for candidate in candidates)
        return NOBODY

    monkeypatch.setattr(cache_aware, "run_interleaved", contest)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cache_aware.run_scan(0, Rules(1, 1, 1), lambda done, total: None)
    return seen


def test_a_gpu_takes_part_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert entrants(monkeypatch, gpu=False) == ["native scan", "torch loop"]
    assert entrants(monkeypatch, gpu=True)[2:] == ["Triton scan on the GPU", "torch loop on the GPU"]


def test_all_select_alike() -> None:
    loop = torch_scan(**WORK)[CASE].call(1)
    assert loop is not None and loop.sum() == 20
    try:
        native = native_scan(**WORK)[CASE].call(1)
    except MissingDependency:
        return
    assert native is not None and (native == loop).all()


def test_without_a_gpu_the_scan_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(MissingDependency, match="the GPU kernels are absent: "):
        triton_scan(**WORK)


def test_each_scan_is_held_to_the_loop_on_its_device() -> None:
    times = {cache_aware.NATIVE: 1.0, cache_aware.TORCH: 50.0, cache_aware.TRITON: 2.0, cache_aware.TORCH_ON_GPU: 30.0}
    outcome = Outcome({key: Timing(((1e-5 * s,), (1e-5 * s,))) for key, s in times.items()}, ())
    told = scan_dict(outcome)
    assert told["speedup"]["value"] == pytest.approx(50) and told["gpu"]["speedup"]["value"] == pytest.approx(15)
    assert told["gpu"]["triton"]["median_ms"] == pytest.approx(0.02)
    json.dumps(told, allow_nan=False)
    assert "gpu" not in scan_dict(Outcome({cache_aware.TORCH: outcome.timings[cache_aware.TORCH]}, ()))
    screen = Console(width=120)
    with screen.capture() as shown:
        screen.print(scan_table(outcome))
    lines = {line.split("  ")[0].strip(): line for line in shown.get().splitlines()}
    assert "50.0x" in lines["native scan"] and "15.0x" in lines["Triton scan on the GPU"]
    assert "1.00x" in lines["torch loop on the GPU"]


@pytest.mark.cuda
def test_on_a_gpu_all_four_are_timed() -> None:
    found = cache_aware.run_scan(0, Rules(1, 1, 1), lambda done, total: None)
    assert set(found.timings) >= {cache_aware.TORCH, cache_aware.TRITON, cache_aware.TORCH_ON_GPU}
    assert found.timings[cache_aware.TRITON].answer == found.timings[cache_aware.TORCH].answer
