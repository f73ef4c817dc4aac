"""What a study asks, searches, interpolates and says, on figures that can be worked by hand."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import MissingDependency, UnknownName, UsageError
from dipc.files import file_lock
from dipc.memory.flash import FlashReadOptions
from dipc.report.study_findings import sentence
from dipc.studies.engine.cluster import check_cluster
from dipc.studies.options import DeviceGrid, StudySearch
from dipc.studies.study.findings import findings
from dipc.studies.study.method_grid import method_grid
from dipc.studies.study.result import Point, Study, TokenCost
from dipc.studies.study.search import EXACT, bracket, next_density
from dipc.studies.study.spec import Increase, increase, parse_spec
from dipc.studies.study.targets import of_points, targets

DENSE = 10.0
T = TypeVar("T")


def point(density: float, perplexity: float, speed: float, **options: Any) -> Point:
    """A point of `dip` on a device where dense makes 1 token/s."""
    cost = TokenCost(speed, 1000 / speed, 1e6, 1e6, 0.5, 0.25, "flash", None, speed, ())
    own = {"method": "dip", "gamma": None, "policy": "lfu", "dram_bytes": 4, "flash_bytes_per_s": None, **options}
    name = f"{own['method']}-{density}-{own['gamma']}-{own['policy']}-{own['dram_bytes']}-{own['flash_bytes_per_s']}"
    return Point(id=name, pipeline="p", density=density, perplexity=perplexity, cost=cost, **own)


def dense(speed: float = 1.0, **options: Any) -> Point:
    return point(1.0, DENSE, speed, method="dense", **options)


def study_of(*points: Point, increases: tuple[float, ...] = ()) -> Study:
    found = tuple(targets(points, DENSE, increases))
    nothing: dict[str, Any] = {"text": None, "warmup": 0, "seed": 0, "scope": "all", "device": {}, "settings": {}}
    return Study(model={"bytes": 100.0}, dense_perplexity=DENSE, points=points, targets=found, **nothing)


def said(*points: Point, increases: tuple[float, ...] = ()) -> str:
    return "\n".join(map(sentence, findings(study_of(*points, increases=increases))))


@pytest.mark.smoke
def test_the_search_halves_what_is_between() -> None:
    measured = {0.9: 10.1, 0.5: 14.0}
    assert bracket(measured, 10.5) == (0.9, 0.5)
    assert next_density(measured, measured, 10.5, 0.1) == 0.7
    measured[0.7] = 10.4
    assert next_density(measured, measured, 10.5, 0.1) == 0.6
    measured[0.6] = 11.0
    assert next_density(measured, measured, 10.5, 0.1) is None


def test_above_all_that_was_listed_lies_the_dense_model() -> None:
    assert bracket({0.9: 12.0}, 10.5) == (EXACT, 0.9)
    assert next_density({0.9: 12.0}, {0.9}, 10.5, 0.02) == 0.96
    assert next_density({0.9: 12.0}, {0.9, 0.96}, 10.5, 0.02) is None


def test_below_all_that_was_listed_nobody_asked() -> None:
    assert next_density({0.9: 10.1, 0.5: 10.4}, {0.9, 0.5}, 10.5, 0.1) is None


@given(st.floats(10.0, 30.0), st.sampled_from([0.02, 0.05, 0.1]), st.floats(0.5, 20.0))
def test_the_search_ends_at_neighbours_on_the_grid(limit: float, step: float, steepness: float) -> None:
    measured = {d: DENSE + steepness * (1 - d) ** 2 for d in (0.9, 0.5, 0.3)}
    while (density := next_density(measured, measured, limit, step)) is not None:
        assert density not in measured
        measured[density] = DENSE + steepness * (1 - density) ** 2
    assert len(measured) < 3 + 8
    inner, outer = bracket(measured, limit)
    assert outer is None or inner - outer < 2 * step


def test_between_two_points_time_is_a_line() -> None:
    # Half way in perplexity: half of 1/2 s and half of 1/4 s is 3/8 s a token.
    found = of_points([point(0.8, 10.2, 2.0), point(0.6, 10.6, 4.0)], DENSE, 0.4, 1.0)
    assert found.tokens_per_second == pytest.approx(8 / 3) and found.speedup == pytest.approx(8 / 3)
    assert found.perplexity == pytest.approx(10.4) and found.density == pytest.approx(0.7)
    assert found.interpolated and found.neighbours == ("dip-0.8-None-lfu-4-None", "dip-0.6-None-lfu-4-None")


def test_a_line_that_leads_nowhere_faster_is_not_taken() -> None:
    found = of_points([point(0.9, 10.1, 5.0), point(0.8, 10.2, 4.0), point(0.6, 10.9, 3.0)], DENSE, 0.5, 1.0)
    assert (found.tokens_per_second, found.density, found.interpolated) == (5.0, 0.9, False)


def test_what_is_bounded_or_out_of_reach_says_so() -> None:
    lowest = of_points([point(0.8, 10.2, 2.0), point(0.6, 10.3, 4.0)], DENSE, 0.5, 1.0)
    assert lowest.tokens_per_second == 4.0 and not lowest.interpolated
    assert lowest.reason == "density 0.6 is the lowest that was tried"
    far = of_points([point(0.8, 12.0, 2.0)], DENSE, 0.5, 1.0)
    assert (
        far.tokens_per_second is None and far.reason is not None and "out of reach: 12.00 at density 0.8" in far.reason
    )
    missing = of_points([replace(point(0.8, 12.0, 2.0), cost=None, reason="too large")], DENSE, 0.5, 1.0)
    assert missing.reason == "too large"


def test_a_cache_aware_target_is_that_of_the_best_gamma() -> None:
    slow = [point(d, 10 + 5 * (1 - d), 1 / d, method="dip-ca", gamma=0.5) for d in (0.9, 0.7)]
    quick = [point(d, 10 + 5 * (1 - d), 2 / d, method="dip-ca", gamma=0.2) for d in (0.9, 0.7)]
    (found,) = targets([dense(), *slow, *quick], DENSE, [1.0])
    assert found.gamma == 0.2 and found.tokens_per_second == pytest.approx(2 / 0.8)
    assert found.by_gamma == {"0.5": pytest.approx(1 / 0.8), "0.2": pytest.approx(2 / 0.8)}


def test_findings_on_dram_and_flash() -> None:
    points = [
        made
        for dram, gain in ((2, 1.5), (4, 2.0))
        for flash in (1e9, 2e9)
        for made in (
            dense(flash / 1e9, dram_bytes=dram, flash_bytes_per_s=flash),
            point(0.9, 10.1, gain * flash / 1e9, dram_bytes=dram, flash_bytes_per_s=flash),
        )
    ]
    text = said(*points, increases=(0.5,))
    assert "The gain of dip (lfu) over dense within +0.5 grows with DRAM: 1.50 at 2 B, 2.00 at 4 B." in text
    assert "Throughput of dip is proportional to flash bandwidth" in text
    assert "dip at density 0.9 (lfu) is the fastest: 4.000 tok/s, 2.00 times dense." in text
    half = [
        replace(p, cost=replace(p.cost, tokens_per_second=(p.flash_bytes_per_s or 1) ** 0.5)) for p in points if p.cost
    ]
    assert "Throughput of dip grows more slowly than flash bandwidth: it goes with its power 0.50" in said(*half)


def test_the_model_fits_where_dense_reads_no_flash() -> None:
    points = []
    # 120 bytes hold the model's 100, but not its KV cache as well.
    for dram, gain, missed in ((60, 1.5, 9.0), (120, 2.0, 1.0), (200, 1.2, 0.0)):
        beside = dense(dram_bytes=dram)
        assert beside.cost is not None
        points.append(replace(beside, cost=replace(beside.cost, flash_bytes_per_token=missed)))
        points.append(point(0.9, 10.1, gain, dram_bytes=dram))
    assert "The whole model fits into 200 B of DRAM: dense reads no flash there." in said(*points)
    assert "fits" not in said(*points[:4])
    assert "grows with DRAM until the model fits" in said(*points, increases=(0.5,))


@pytest.mark.parametrize(
    ("policy", "paper"),
    [
        ("belady-demand", "as in the paper."),
        ("belady", "where the oracle may read past the cache, which the paper's does not."),
    ],
)
def test_findings_on_policies_and_the_oracle(policy: str, paper: str) -> None:
    lru = [point(d, 20 - 10 * d, 1 / d, policy="lfu") for d in (0.9, 0.5)]
    oracle = [point(d, 20 - 10 * d, 2 / d, policy=policy) for d in (0.9, 0.5)]
    curves = {0.2: ((10.0, 2.0), (12.0, 4.0)), 0.5: ((10.0, 1.0), (12.0, 2.0))}
    aware = [
        point(0.7, perplexity, speed, method="dip-ca", gamma=gamma)
        for gamma, curve in curves.items()
        for perplexity, speed in curve
    ]
    text = said(dense(), *lru, *oracle, *aware)
    assert f"dip has, in shares of its throughput under lfu: {policy} 2.00." in text
    # At the oracle's perplexity 11, 2.22 tok/s, gamma 0.2 takes (0.5 + 0.25) / 2 s: 2.67 tok/s. None is known at 15.
    assert f"dip-ca (lfu, the best gamma of 0.2, 0.5) has 1.20 times the throughput of dip under {policy}" in text
    assert f"more at 1 of 1 points, {paper}" in text


def test_findings_on_gamma_tell_where_the_paper_differs() -> None:
    points = [dense()]
    points += [point(0.9, 10.1, 1 + g, method="dip-ca", gamma=g) for g in (0.2, 0.7)]
    assert "the best for dip-ca (lfu) within +0.5 is 0.7 with 4 B of DRAM, where the paper finds 0.1 to 0.3" in said(
        *points, increases=(0.5,)
    )


def ask(**options: Any) -> Any:
    given: dict[str, Any] = {"methods": "dip,dip-ca", "densities": (0.5,), "policies": ("lfu",), **options}
    devices, search = _group(DeviceGrid, given), _group(StudySearch, given)
    return parse_spec(given["methods"], given["densities"], devices, search, None, lambda: 1e9)


def _group(kind: type[T], given: dict[str, Any]) -> T:
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if name in names})


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"methods": ""}, "methods: the list is empty"),
        ({"densities": ()}, "density: the list is empty"),
        ({"densities": (0.5, 1.2)}, "density: 1.2 is outside (0, 1]"),
        ({"gammas": (0.0,)}, "gamma: 0 is outside (0, 1]"),
        ({"policies": ()}, "policy: the list is empty"),
        ({"policies": ("lfru",)}, "no cache policy named 'lfru'"),
        ({"methods": "dip-ca", "policies": ("belady",)}, "belady cannot steer dip-ca"),
        ({"methods": "glu", "densities": (0.5,)}, "glu has nothing at density 0.5"),
        ({"methods": "dipp"}, "no method named 'dipp'"),
        ({"methods": ["dip{density=0.5}"]}, "has no DENSITY"),
        ({"methods": "dip+lora"}, "dip + LoRA needs an adapter"),
        ({"dram": ("4",)}, '"4" has no unit'),
        ({"dram": ("40 GB",)}, "a18 has 8 GB of DRAM"),
        ({"flash": ("1 GB",)}, '"1 GB" has the unknown unit'),
        ({"max_ppl_increase": ("0",)}, '"0" is no increase'),
        ({"max_ppl_increase": ("much",)}, '"much" is no increase'),
        ({"step": 1.0}, "step is 1"),
        ({"reads": FlashReadOptions(align=True)}, "gives no flash.page"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError) as error:
        ask(**options)
    assert part in str(error.value)


def test_increases_are_amounts_or_shares() -> None:
    assert increase("0.2") == Increase(0.2, False) and increase(0.5).of(40.0) == 0.5
    assert increase("5%") == Increase(0.05, True) and increase(" 5 % ").of(40.0) == 2.0


def test_settings_are_every_dram_with_every_flash_once() -> None:
    found = ask(dram=("2 GB", "4 GB", "2000 MB"), flash=("1 GB/s", "2 GB/s"))
    assert [(p.dram_bytes, p.flash_bytes_per_s) for p in found.settings] == [
        (2 * 10**9, 1e9),
        (2 * 10**9, 2e9),
        (4 * 10**9, 1e9),
        (4 * 10**9, 2e9),
    ]
    (own,) = ask().settings
    assert (own.dram_bytes, own.flash_bytes_per_s) == (4 * 10**9, None)


def test_only_what_decides_while_a_text_runs_steers_masks() -> None:
    found = method_grid("dip,dip-ca", (0.5,), (0.1, 0.2), ("none", "lfu", "belady", "lru"), None)
    assert [(v.method, v.gamma, v.policy) for v in found] == [
        ("dip", None, None),
        ("dip-ca", 0.1, "lfu"),
        ("dip-ca", 0.2, "lfu"),
        ("dip-ca", 0.1, "lru"),
        ("dip-ca", 0.2, "lru"),
    ]
    assert found[3].pipeline(0.5) == "dip-ca{density=0.5 gamma=0.1 policy=lru}"


def test_a_pipeline_keeps_the_gamma_and_the_policy_that_it_names() -> None:
    (found,) = method_grid(["int4,dip-ca{density=DENSITY gamma=0.7 policy=lru}"], (0.5,), (0.1, 0.2), ("lfu",), None)
    assert found.pipeline(0.6) == "int4,dip-ca{density=0.6 gamma=0.7 policy=lru}" and found.policy == "lru"


def test_a_claim_lets_one_in_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "a.lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with file_lock(path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not path.exists()


def test_a_cluster_has_to_be_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="no cluster named 'rya'; did you mean 'ray'"):
        check_cluster("rya")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"dipc\[cluster\]"):
        check_cluster("ray")
    check_cluster(None)
