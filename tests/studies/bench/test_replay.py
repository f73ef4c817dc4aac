"""The contest of replays: what its processes do, what it refuses and how it is told. Never speed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dipc import native
from dipc.errors import UsageError
from dipc.registry import REGISTRIES
from dipc.report.bench_replay import model_replay_dict, model_replay_tables, replay_dict, replay_tables
from dipc.studies.bench.candidates.random_masks import make_masks
from dipc.studies.bench.candidates.replay import (
    TOGETHER,
    ReplayTask,
    case_name,
    libcachesim_replay,
    native_replay,
    numpy_replay,
)
from dipc.studies.bench.contest import Outcome, Rules
from dipc.studies.bench.machine import describe_machine
from dipc.studies.bench.replay import LIBCACHESIM, NATIVE, NUMPY, ReplayBench, ReplayBenchResult, ReplayRow, judge
from dipc.studies.bench.replay_model import ModelReplayBench, ModelReplayResult
from dipc.studies.bench.timing import Ratio, Timing
from kit.command_line import Cli
from kit.tiny_models import SIZES

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")
TASK = ReplayTask(units=64, tokens=30, active={"0.25": 16}, capacity=32, seed=0)


def test_masks_have_a_fixed_number_of_units_some_of_which_are_popular() -> None:
    mask_TU = np.unpackbits(make_masks(100, 30, 400, 1), axis=1, count=100)
    assert set(mask_TU.sum(axis=1)) == {30}
    lasting = (mask_TU[1:] & mask_TU[:-1]).sum() / mask_TU[1:].sum()
    uses = np.sort(mask_TU.mean(axis=0))
    assert lasting > 0.5 and uses[0] < 0.1 and uses[-1] > 0.7


@needs_library
def test_both_paths_replay_the_same_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = native_replay(TASK, ["lfu", "belady"])
    answers = {name: case.call(0) for name, case in ours.items()}
    monkeypatch.setenv("DIPC_NATIVE", "1")  # and back, whatever the process sets
    theirs = numpy_replay(TASK, ["lfu", "belady"])
    for name, case in theirs.items():
        np.testing.assert_array_equal(case.call(0), answers[name])
    together = answers[case_name(TOGETHER, "0.25")]
    assert together is not None and together[1] == 6 and together[0] > 3 * 30


def test_libcachesim_counts_hits_of_single_requests() -> None:
    pytest.importorskip("libcachesim")
    found = libcachesim_replay(dataclasses.replace(TASK, capacity=64), ["lfu", "lru", "static"])
    uses = np.unpackbits(make_masks(64, 16, 30, 0), axis=1, count=64).sum(axis=0)
    assert set(found) == {"lfu, density 0.25", "lru, density 0.25"}
    for case in found.values():  # all fits, so only first touches miss; and a second call sees the same requests
        for number in range(2):
            answer = case.call(number)
            assert answer is not None and round(answer[0]) == 16 * 30 - np.count_nonzero(uses)


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        (ReplayBench(policies=("mru",)), "no cache policy named 'mru'"),
        (ReplayBench(tokens=0), "0 tokens and 4096 units is empty"),
        (ReplayBench(densities=(0.5, 1.5)), "1.5 is no share"),
        (ReplayBench(capacity=0), "0 is no share"),
    ],
)
def test_what_is_refused_before_anything_is_set_up(bench: ReplayBench, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench.check()


def test_a_wrong_answer_is_a_failure() -> None:
    case = case_name("lfu", "0.5")
    timings = {
        (who, case): Timing(((2e-6,), (4e-6,)), answer=(hits, 1.0)) for who, hits in ((NATIVE, 9.0), (NUMPY, 8.0))
    }
    bench = ReplayBench(units=4, tokens=8, densities=(0.5,), policies=("lfu",))
    rows, failures = judge(Outcome(timings, ()), bench)
    assert rows == () and "wrong" in failures[0].reason
    timings[NUMPY, case] = Timing(((6e-6,), (6e-6,)), answer=(9.0, 1.0))
    (row, slow), failures = judge(Outcome(timings, ()), bench)
    assert failures == () and row.accesses_per_s == pytest.approx(2 / 3e-6) and row.hit_rate == 9 / 16
    assert slow.native_speedup is not None and slow.native_speedup.value == pytest.approx(2)


def test_how_it_is_told() -> None:
    timing = Timing(((2e-6, 2e-6), (2e-6, 4e-6)), answer=(100.0, 1.0))
    rows = tuple(
        ReplayRow("lfu", 0.5, who, timing, 1, 1e9, 0.75, Ratio(1.0, 1.0, 1.0)) for who in (NATIVE, LIBCACHESIM)
    )
    result = ReplayBenchResult(describe_machine(), ReplayBench(), Rules(1, 2, 2), rows, (), Outcome({}, ()))
    document = replay_dict(result)
    assert document["kind"] == "bench-replay" and document["rows"][0]["accesses_per_s"] == 1e9
    json.dumps(document, allow_nan=False)
    assert replay_tables(result)


@needs_library
def test_a_model_is_replayed_through_all_of_its_sites(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES}))
    more = ["--tokens", 700, "--policies", "lfu,none", "--capacity", "0.5,1", "--passes", "dip{density=0.5}"]
    found = cli("bench", "replay", "--model", config, *more, "--json").json()
    assert (found["sites"], found["units"]) == (4, 2 * (32 + 48))
    half, whole, none, also_none = (rate["hit_rate"] for rate in found["hit_rates"])
    assert 0.5 < half < whole < 1 and none == also_none == 0
    assert found["accesses"] == 4 * 700 * 80
    assert found["peak_bytes"] > 1e7 or not Path("/proc/self/status").exists()


def test_how_a_model_s_replay_is_told() -> None:
    bench = ModelReplayBench("phi", 700, (("lfu", 0.5), ("lru", 0.25)), 2)
    result = ModelReplayResult(describe_machine(), bench, 4, 160, 10**9, 2.0, 10**8, (0.8, 0.6))
    document = model_replay_dict(result)
    assert document["kind"] == "bench-replay-model" and document["accesses_per_s"] == 5e8
    assert document["hit_rates"][1] == {"policy": "lru", "capacity": 0.25, "hit_rate": 0.6}
    json.dumps(document, allow_nan=False)
    assert model_replay_tables(result)


@needs_library
def test_a_policy_of_a_plugin_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPC_NATIVE", "1")  # and back, whatever the process sets
    file = tmp_path / "newest.py"
    file.write_text(
        "from dipc.cache.policy import Policy\n\n\nclass Newest(Policy):\n    def key(self, freq, last_used):\n"
        "        return last_used * 0\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for registry in REGISTRIES:
            patch.setattr(registry, "added", dict(registry.added))
        assert set(numpy_replay(TASK, ["newest"], [str(file)])) == {"newest, density 0.25"}


def test_what_the_command_refuses(cli: Cli) -> None:
    cli("bench", "replay", "--capacity", "0.5,1").fails(2, "must be one share without --model")
    cli("bench", "replay", "--model", "demo", "--policies", "belady").fails(2, "belady")
    cli("bench", "replay", "--model", "demo", "--tokens", -3).fails(2, "-3 tokens cannot be replayed")
