"""Cache-aware methods with the policy `static`: a hot set from a calibration, in the graph, in files and in prices."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dipc.api import Program, capture, compile, estimate, evaluate, export, load, save
from dipc.backends.eager import EagerSession
from dipc.calibration.file import Calibration
from dipc.errors import CalibrationNeeded, UsageError
from dipc.ir.selections import cache_aware, popularities, with_capacities
from dipc.memory.lowering import lower
from kit.handmade_calibration import tiny_calibration
from kit.letters import TEXT, Letters
from kit.runs import run_pieces
from kit.tiny_models import random_ids, tiny_llama, tiny_model

METHODS = ("dip-ca", "wina-ca", "sensitivity-ca")


@cache
def compiled(name: str = "dip-ca", options: str = "") -> Program:
    return compile(tiny_llama(), f"{name}{{policy=static {options}}}", calibration=tiny_calibration()).program


def hot(site: str, capacity: int) -> list[int]:
    """The most popular units of a site, by the calibration, the lower index first among equals."""
    mlp, _, where = site.rpartition(".")
    share = Calibration.load(tiny_calibration()).popularity(mlp, where).numpy()
    return sorted(np.argsort(-share, kind="stable")[:capacity].tolist())


@pytest.mark.parametrize("name", METHODS)
def test_the_hot_set_is_cached_from_the_first_token_to_the_last(name: str) -> None:
    program = compiled(name)
    for pieces in (1, 5, 20):
        session = run_pieces(program, random_ids(20), pieces)[2]
        for site, (policy, capacity) in cache_aware(program).items():
            cached = session.state(f"{site.replace('.', '_')}_cached")
            assert policy == "static" and cached.nonzero().flatten().tolist() == hot(site, capacity)


def test_the_first_token_already_prefers_the_hot_set() -> None:
    # With a gamma this small, a token takes units of the hot set alone as long as there are enough.
    program = compiled("dip-ca", "gamma=1e-30 capacity=0.5 density=0.25")
    step = EagerSession(program, record=True).step(random_ids(1))
    for site, (_, capacity) in cache_aware(program).items():
        assert set(step.masks[site].nonzero()[:, 1].tolist()) <= set(hot(site, capacity))


def test_another_capacity_is_another_hot_set() -> None:
    program = with_capacities(compiled(), dict.fromkeys(cache_aware(compiled()), 3))
    session = EagerSession(program)
    session.step(random_ids(2))
    for site in cache_aware(program):
        assert session.state(f"{site.replace('.', '_')}_cached").nonzero().flatten().tolist() == hot(site, 3)


def test_popularity_is_a_constant_and_neither_state_nor_a_parameter_nor_traffic() -> None:
    static = compiled()
    lfu = compile(tiny_llama(), "dip-ca").program
    assert static.parameter_count == lfu.parameter_count and lower(static) == lower(lfu)
    added = static.weights.keys() - lfu.weights.keys()
    assert len(added) == 4 and all(n.startswith("constant.") and "popularity" in n for n in added)
    assert {p.name for p in lfu.carried} - {p.name for p in static.carried} == {
        f"{site.replace('.', '_')}_freq" for site in cache_aware(static)
    }
    for site, counts in popularities(static).items():
        mlp, _, where = site.rpartition(".")
        share = Calibration.load(tiny_calibration()).popularity(mlp, where)
        np.testing.assert_array_equal(counts, np.rint(share.numpy().astype(np.float64) * 2**24))
    assert popularities(lfu) == {}


def test_it_is_the_same_after_saving_and_without_the_calibration(tmp_path: Path) -> None:
    save(compiled(), tmp_path / "out")
    again, ids = load(tmp_path / "out"), random_ids(12)
    assert again.text() == compiled().text()
    assert torch.equal(EagerSession(again).step(ids).logits, EagerSession(compiled()).step(ids).logits)


def test_quantised_weights_take_it_too() -> None:
    program = compile(tiny_llama(), "int8,dip-ca{policy=static}", calibration=tiny_calibration()).program
    assert popularities(program).keys() == cache_aware(program).keys()
    assert EagerSession(program).step(random_ids(3)).logits.isfinite().all()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(compiled("dip-ca", "scope=decode"), "onnx", folder)
    return folder


@pytest.mark.parametrize("kernels", [False, True], ids=["bodies", "kernels"])
def test_it_is_exported(kernels: bool, exported: Path) -> None:
    from dipc import native
    from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

    if kernels and native.library() is None:
        pytest.skip("the native library is not built")
    program = compiled("dip-ca", "scope=decode")
    there = OnnxSession(exported, record=True, options=RuntimeOptions(kernels, threads=1))
    here, ids = EagerSession(program, record=True), random_ids(12)
    for piece, dense in ((ids[:6], True), *((ids[i : i + 1], False) for i in range(6, 12))):
        found, wanted = there.step(piece, dense=dense), here.step(piece, dense=dense)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4)
        assert all(torch.equal(found.masks[site], wanted.masks[site]) for site in wanted.masks)


def test_scores_and_prices_count_the_hits_of_the_hot_set() -> None:
    program = dataclasses.replace(compiled(), tokenizer=Letters(None))
    score = evaluate(program, TEXT, record=True)
    assert score.trace is not None and score.hit_rate is not None and 0 < score.hit_rate < 1
    hits = accesses = 0.0
    sites = {site.name: site for site in lower(program).sites}
    for site, (_, capacity) in cache_aware(program).items():
        counts, mask_TU = popularities(program)[site], score.trace.mask(site)
        units = np.argsort(-counts, kind="stable")[:capacity]
        hits += sites[site].unit_bytes * int(mask_TU[:, units].sum())
        accesses += sites[site].unit_bytes * int(mask_TU.sum())
    assert score.hit_rate == pytest.approx(hits / accesses)
    price = estimate(program, "a18", dram="85%", context=16, text=TEXT, warmup=0).sparse
    assert price is not None and price.policy == "static" and price.popularity == "given"


def test_a_model_known_by_its_config_alone_needs_no_calibration(tmp_path: Path) -> None:
    config = tiny_model().config.to_json_string(use_diff=False)  # type: ignore[operator,union-attr]
    (tmp_path / "config.json").write_text(config)
    program = compile(capture(tmp_path / "config.json"), "dip-ca{policy=static}").program
    found = estimate(program, "a18", dram="85%", context=16)
    assert popularities(program) == {} and found.sparse is not None and 0 < found.sparse.hit_rate < 1


def test_what_it_lacks_is_said_in_one_line() -> None:
    with pytest.raises(CalibrationNeeded, match=r"policy=static.* needs a calibration"):
        compile(tiny_llama(), "dip-ca{policy=static}")
    for name in METHODS:
        with pytest.raises(UsageError, match=f"{name}: policy=belady decides by what later tokens touch") as caught:
            compile(tiny_llama(), f"{name}{{policy=belady}}", calibration=tiny_calibration())
        assert "\n" not in str(caught.value)
