"""Runs of a study: made once, kept, resumed, and made by processes that may die."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dipc
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.studies.engine import cluster, processes
from dipc.studies.engine import run as engine_run
from dipc.studies.engine.cluster import RayCluster
from dipc.studies.engine.processes import WorkerProcesses
from dipc.studies.engine.run import RunFailure
from dipc.studies.study.executor import StudyExecutor, StudySetup
from dipc.studies.study.measure import DENSE_RUN, StudyRun
from dipc.text import Text
from kit.byte_text import WORDS

TEXT = Text("words", WORDS * 4)
OPTIONS: dict[str, Any] = {
    "gammas": (0.2,),
    "densities": (0.8, 0.5),
    "dram": ("80%", "90%"),
    "flash": ("1 GB/s", "2 GB/s"),
    "context": 0,
    "text": TEXT,
    "step": 0,
}


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return dipc.compile(str(model), "outline-glu").program


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the runs that were measured."""
    labels: list[str] = []
    measure = StudyExecutor._measure

    def counted(self: StudyExecutor, run: StudyRun, watch: Any) -> Any:
        labels.append(run.label)
        return measure(self, run, watch)

    monkeypatch.setattr(StudyExecutor, "_measure", counted)
    return labels


def setup_of(model: Path, folder: Path) -> StudySetup:
    return StudySetup(str(model), (), (), TEXT, 64, None, folder, 1 << 20)


def test_a_run_serves_every_price_of_it(program: Program, tmp_path: Path, made: list[str]) -> None:
    first = dipc.run_study(program, "dip,dip-ca", policies=("lfu", "lru", "belady"), out=tmp_path / "out", **OPTIONS)
    # dip knows of no cache: one run a density. dip-ca: one for each DRAM and policy that works online.
    assert sorted(made) == sorted(
        ["dense", "dip 0.8", "dip 0.5"] + 4 * ["dip-ca 0.8 gamma 0.2"] + 4 * ["dip-ca 0.5 gamma 0.2"]
    )
    assert len(first.points) == 4 + 2 * 4 * 3 + 2 * 4 * 2 and not first.failures
    by_id = {point.id: point for point in first.points}
    assert len(by_id) == len(first.points)
    one, two = (by_id[f"dip-0.5-lru-{first.points[0].dram_bytes}B-{rate}GB/s"] for rate in (1, 2))
    assert one.perplexity == two.perplexity and one.throughput < two.throughput < 2.001 * one.throughput
    made.clear()
    again = dipc.run_study(program, "dip,dip-ca", policies=("lfu", "lru", "belady"), out=tmp_path / "out", **OPTIONS)
    assert made == [] and again == first
    dipc.run_study(program, "dip", out=tmp_path / "out", **{**OPTIONS, "gammas": (0.5,), "dram": ("85%",)})
    assert made == []
    assert json.loads((tmp_path / "out" / "study.json").read_text())["kind"] == "study"


def test_a_price_is_that_of_estimate(program: Program) -> None:
    found = dipc.run_study(program, "dip,dip-ca", policies=("lfu",), **{**OPTIONS, "flash": ("1 GB/s",)})
    for point in found.points:
        if point.dram_bytes == found.points[0].dram_bytes and point.pipeline:
            sparse = dipc.compile(program, point.pipeline).program
            cost = dipc.estimate(sparse, "a18", dram="80%", flash="1 GB/s", context=0, text=TEXT)
            assert cost.sparse is not None and cost.score is not None and point.cost is not None
            assert point.perplexity == pytest.approx(cost.score.perplexity, rel=1e-6)
            assert point.throughput == pytest.approx(cost.sparse.throughput, rel=1e-12)
            assert point.cost.speedup == pytest.approx(cost.speedup, rel=1e-12)
            layers = sum(layer.flash_bytes_per_token for layer in point.cost.layers)
            assert layers == pytest.approx(cost.sparse.flash_bytes_per_token)


def test_the_search_finds_where_the_limit_is(program: Program, tmp_path: Path, made: list[str]) -> None:
    options = {**OPTIONS, "dram": ("80%",), "flash": (), "densities": (0.9, 0.1), "step": 0.05}
    wide = dipc.run_study(program, "dip", out=tmp_path, **{**options, "step": 0})
    low, high = (wide.point(name).perplexity for name in (p.id for p in wide.points[1:]))
    assert low is not None and high is not None and wide.dense_perplexity is not None
    allowed = (low + high) / 2 - wide.dense_perplexity
    if allowed <= 0:
        pytest.skip("random weights: sparsity makes this model better")
    found = dipc.run_study(program, "dip", out=tmp_path, max_ppl_increase=(allowed,), **options)
    (target,) = found.targets
    inner, outer = (found.point(name) for name in target.neighbours)
    assert target.interpolated and inner.density - outer.density < 2 * 0.05
    assert inner.perplexity is not None and outer.perplexity is not None
    assert inner.perplexity <= wide.dense_perplexity + allowed < outer.perplexity
    assert inner.throughput <= (target.tokens_per_second or 0) <= outer.throughput
    assert len(made) == len(set(made)) and len(made) > 4


def test_reasons_stand_for_what_cannot_be(program: Program) -> None:
    options = {**OPTIONS, "dram": ("60%", "80%"), "flash": (), "densities": (0.5,)}
    found = dipc.run_study(program, "dip,cats", **options)
    small, large = (point.dram_bytes for point in found.points[:2])
    reasons = {point.method: point.reason for point in found.points if point.dram_bytes == large}
    assert reasons["dip"] is None and "needs a calibration" in str(reasons["cats"])
    short = [point.reason for point in found.points if point.dram_bytes == small and point.method != "cats"]
    assert all("too little" in str(reason) for reason in short)
    assert not found.failures
    with pytest.raises(UsageError, match="too little"):
        dipc.run_study(program, "dip", **{**options, "dram": ("60%",)})


def test_a_folder_is_of_one_model_and_one_text(program: Program, tmp_path: Path) -> None:
    options = {**OPTIONS, "densities": (0.5,), "dram": (), "flash": ()}
    dipc.run_study(program, "dip", out=tmp_path, **options)
    with pytest.raises(UsageError, match="holds a study with text digest"):
        dipc.run_study(program, "dip", out=tmp_path, **{**options, "text": Text("words", WORDS * 5)})


def test_a_config_alone_is_priced_on_drawn_activity(model: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "densities": (0.5,), "flash": ()}
    found = dipc.run_study(model / "config.json", "dip,dip-ca", out=tmp_path, **options)
    assert found.text is None and found.dense_perplexity is None and found.targets == ()
    assert [(p.method, p.perplexity, p.seed) for p in found.points] == [
        *2 * [("dense", None, None)],
        *2 * [("dip", None, 0)],
        *2 * [("dip-ca", None, 0)],
    ]
    assert all("synthetic" in p.source for p in found.points if p.method != "dense")
    with pytest.raises(UsageError, match="has no perplexity to keep within"):
        dipc.run_study(model / "config.json", max_ppl_increase=(0.2,), **options)


def test_timelines_are_of_points_that_there_are(program: Program) -> None:
    found = dipc.run_study(program, "dip", **{**OPTIONS, "densities": (0.5,)})
    assert [line["point"].split("-")[0] for line in found.timelines] == ["dense", "dip"]
    for line in found.timelines:
        flash = sum(event["duration_s"] for event in line["events"] if event["track"] == "flash")
        assert flash <= line["latency_s"] * 1.001 and found.point(line["point"]).cost


def test_a_failing_run_costs_its_own_points_only(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = StudyExecutor._measure

    def fails(self: StudyExecutor, run: StudyRun, watch: Any) -> Any:
        if "0.5" in run.label:
            raise ZeroDivisionError("on purpose")
        return measure(self, run, watch)

    monkeypatch.setattr(StudyExecutor, "_measure", fails)
    found = dipc.run_study(program, "dip", **{**OPTIONS, "flash": ()})
    assert {(p.density, p.reason) for p in found.failures} == {(0.5, "ZeroDivisionError: on purpose")}
    assert [p.density for p in found.points if p.method == "dip" and p.cost] == [0.8, 0.8]


def test_a_run_without_its_trace_is_made_again(model: Path, program: Program, tmp_path: Path) -> None:
    executor, run = StudyExecutor(setup_of(model, tmp_path), program), StudyRun("dip", "dip{density=0.5}")
    executor.execute(run, lambda part, what: None)
    first = executor.store.read(run)
    assert first is not None and first.traced
    next((tmp_path / "runs").glob("*.safetensors")).unlink()
    assert executor.store.read(run) is None
    executor.execute(run, lambda part, what: None)
    assert executor.store.read(run) == first


# --- processes -------------------------------------------------------------------------------------------------------


def _dies_once(setup: StudySetup, run: StudyRun, watch: Any) -> None:
    """In place of a run's making: killed the first time, and always where the label says so."""
    mark = setup.folder / f"{run.label}.tried"
    if not mark.exists() or run.label == "doomed":
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if run.label == "refused":
        raise UsageError("not this one")
    (setup.folder / f"{run.label}.made").write_text(str(os.getpid()))


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers whose runs are `_dies_once`. They are forked, which is quick, and safe where torch is not called."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr("dipc.studies.engine.processes.multiprocessing.get_context", lambda method: forked)
    monkeypatch.setattr(processes, "run_in_worker", _dies_once)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("dying")
def test_a_killed_worker_costs_nothing_but_its_second_try(tmp_path: Path) -> None:
    runs = [StudyRun("a"), StudyRun("doomed"), StudyRun("refused")]
    seen: list[tuple[str, float]] = []
    at_work = WorkerProcesses[StudyRun](setup_of(tmp_path, tmp_path), 2)
    try:
        failures = at_work.make(runs, lambda run, part, what: seen.append((run.label, part)))
    finally:
        at_work.close()
    assert failures == {
        StudyRun("doomed"): RunFailure("its process ended 2 times before it was made (killed by SIGKILL)"),
        StudyRun("refused"): RunFailure("not this one"),
    }
    assert (tmp_path / "a.made").exists()
    assert sorted(label for label, part in seen if part == 1.0) == ["a", "doomed", "refused"]


class _Deadly:
    """Ends the process that unpickles it, as one that is killed while it starts."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_a_worker_that_dies_before_it_has_read_a_long_text_is_noticed(tmp_path: Path) -> None:
    long_text = Text("words", "word " * 100_000)  # far more than a pipe holds
    setup = StudySetup("model", (("deadly", _Deadly()),), (), long_text, 64, None, tmp_path, 1 << 20)
    at_work = WorkerProcesses[StudyRun](setup, 1)
    try:
        failures = at_work.make([StudyRun("a")], lambda run, part, what: None)
    finally:
        at_work.close()
    assert failures == {StudyRun("a"): RunFailure("its process ended 2 times before it was made (exit code 3)")}


def test_processes_make_what_this_one_would(model: Path, program: Program, tmp_path: Path) -> None:
    options = {**OPTIONS, "densities": (0.5,), "dram": ("80%",), "flash": ()}
    here = dipc.run_study(program, "dip", **options)
    there = dipc.run_study(str(model), "dip", jobs=2, out=tmp_path, **options)
    assert [p.perplexity for p in there.points] == pytest.approx([p.perplexity for p in here.points], rel=1e-6)
    assert not list((tmp_path / "runs").glob("*.lock"))
    with pytest.raises(UsageError, match="other processes load the model themselves"):
        dipc.run_study(program, jobs=2, **options)


class _Reference:
    def __init__(self, value: Any) -> None:
        self.value = value


class FakeRay:
    """As much of Ray as a study uses, in this process; a task that raises `SystemExit` stands for one that died."""

    class exceptions:  # noqa: N801 - Ray's own name
        class RayError(Exception):
            pass

    def __init__(self) -> None:
        self.started = self.ended = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.started += 1

    def shutdown(self) -> None:
        self.ended += 1

    def put(self, value: Any) -> _Reference:
        return _Reference(value)

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "max_retries": 1}

        def wrapped(function: Callable[..., Any]) -> Any:
            class Task:
                @staticmethod
                def remote(setup: _Reference, run: StudyRun) -> _Reference:
                    try:
                        return _Reference(function(setup.value, run))
                    except SystemExit as error:
                        return _Reference(FakeRay.exceptions.RayError(str(error)))

            return Task

        return wrapped

    def wait(self, pending: list[_Reference], num_returns: int) -> Any:
        return pending[:num_returns], pending[num_returns:]

    def get(self, reference: _Reference) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_cluster_makes_the_same_runs(
    model: Path, program: Program, fake_ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_run, "_executor", lambda setup: StudyExecutor(setup, program))
    options = {**OPTIONS, "densities": (0.5,), "dram": ("80%",), "flash": ()}
    found = dipc.run_study(str(model), "dip", cluster="ray", out=tmp_path, **options)
    assert found == dipc.run_study(program, "dip", **options)
    assert (fake_ray.started, fake_ray.ended) == (1, 1)


def test_a_task_that_dies_on_the_cluster_is_a_reason(
    model: Path, fake_ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(setup: StudySetup, run: StudyRun, watch: Any) -> None:
        raise SystemExit("the node is gone")

    monkeypatch.setattr(cluster, "run_in_worker", dies)
    failures = RayCluster[StudyRun](setup_of(model, tmp_path)).make([DENSE_RUN], lambda run, part, what: None)
    assert failures == {DENSE_RUN: RunFailure("its process ended 2 times before it was made (the node is gone)")}


@pytest.mark.nightly
def test_a_real_ray_makes_the_same_runs(model: Path, program: Program, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    options = {**OPTIONS, "densities": (0.5,), "dram": ("80%",), "flash": ()}
    found = dipc.run_study(str(model), "dip,dip-ca", cluster="ray", out=tmp_path, **options)
    assert found == dipc.run_study(program, "dip,dip-ca", **options)
