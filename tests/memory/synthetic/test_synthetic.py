"""Made-up activity: what is drawn has the moments that were fitted, and caches meet it as they meet the real one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipc import api
from dipc.api import Program, evaluate, fit_activity
from dipc.cache.policy import get_policy
from dipc.cache.replay import replay_site
from dipc.cache.state import CacheState
from dipc.errors import BadFile, UsageError
from dipc.ir import operators
from dipc.ir.selections import with_capacities
from dipc.memory.lowering import active_units, lower
from dipc.memory.synthetic import ActivityModel, default_activity, synthetic_trace
from dipc.memory.synthetic.activity import SiteActivity
from dipc.memory.synthetic.normal import GRID_G, Transform, latent_correlation, quantile_points, shares
from dipc.memory.synthetic.scores import Scores
from dipc.memory.synthetic.statistics import site_statistics
from dipc.memory.trace import Trace
from dipc.tuning.fit_activity import LAGS, SiteMoments, log_magnitudes, persistence_of
from kit.traces import uniform_trace

POLICIES = ("lru", "lfu", "lfu-admission", "belady")
PARTS = (0.25, 0.5, 0.75)


def site(popularity: float = 0.3, noise: float = 1.1, persistent: float = 0.4, persistence: float = 0.8) -> Any:
    """Normal popularity and noise with these standard deviations."""
    tables = {"popularity": tuple(popularity * GRID_G), "noise": tuple(noise * GRID_G)}
    return SiteActivity(depth=0.0, **tables, persistent=persistent, persistence=persistence)


@pytest.fixture(scope="module")
def demo() -> Program:
    return api.capture("demo")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Two layers of a model without weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 200, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes, **heads}))
    return api.capture(str(file))


def test_a_table_is_looked_up_where_the_normal_variable_lies() -> None:
    identity = Transform(tuple(GRID_G))
    z = np.array([-9.0, -4.0, -1.3, 0.0, 0.7, 4.0, 9.0], dtype=np.float32)
    np.testing.assert_allclose(identity(z), np.clip(z, -4, 4), atol=1 / 512)
    assert shares()[16] == 0.5
    np.testing.assert_allclose(quantile_points(2), [-0.67449, 0.67449], atol=1e-5)


@pytest.mark.parametrize("latent", [0.05, 0.3, 0.8])
def test_correlation_of_values_is_that_of_the_normal_variables_under_them(latent: float) -> None:
    assert latent_correlation(tuple(2 * GRID_G), latent) == pytest.approx(latent, abs=1e-4)
    # exp(s z) of variables with correlation r has the correlation (exp(s^2 r) - 1) / (exp(s^2) - 1).
    s2 = 0.7**2
    of_values = math.expm1(s2 * latent) / math.expm1(s2)
    assert latent_correlation(tuple(np.exp(0.7 * GRID_G)), of_values) == pytest.approx(latent, abs=5e-3)


def test_no_correlation_and_a_full_one() -> None:
    assert latent_correlation(tuple(GRID_G), -0.1) == 0
    assert latent_correlation(tuple(GRID_G), 1.0) == 1


def test_persistence_by_hand() -> None:
    assert persistence_of(0.2 * 0.8, 0.2 * 0.8 ** LAGS[1]) == pytest.approx((0.2, 0.8))
    assert persistence_of(0.0, 0.3) == (0.0, 0.0)
    assert persistence_of(0.1, 0.2) == pytest.approx((0.1 / 0.999, 0.999))
    assert persistence_of(0.1, 0.0)[1] == pytest.approx(1e-3 ** (1 / 7))


def test_the_same_scores_come_whole_and_in_pieces() -> None:
    whole = Scores(site(), 37, (5, 1)).draw(9)
    apart = Scores(site(), 37, (5, 1))
    np.testing.assert_array_equal(np.concatenate([apart.draw(1), apart.draw(3), apart.draw(5)]), whole)
    assert not np.array_equal(Scores(site(), 37, (5, 2)).draw(9), whole)
    assert whole.dtype == np.float32 and (whole > 0).all()
    ranks = Scores(site(), 37, (5, 1)).ranks_U
    assert sorted(ranks.tolist()) == list(range(37))


def test_the_fit_finds_what_scores_were_drawn_from() -> None:
    drawn = site(popularity=0.5, noise=1.2, persistent=0.3, persistence=0.7)
    scores = Scores(drawn, 400, (0,))
    moments, level_TU = SiteMoments(400), log_magnitudes(torch.from_numpy(scores.draw(1500)))
    for window in level_TU.split(500):
        moments.add(window)
    for window in level_TU.split(500):
        moments.add_noise(window)
    found = moments.fitted(0.25)
    assert found.depth == 0.25
    assert found.persistent == pytest.approx(0.3, abs=0.02) and found.persistence == pytest.approx(0.7, abs=0.02)
    middle = slice(8, 25)  # two standard deviations to either side
    np.testing.assert_allclose(found.noise[middle], drawn.noise[middle], atol=0.03)
    np.testing.assert_allclose(found.popularity[middle], drawn.popularity[middle], atol=0.15)


def test_zeros_have_a_logarithm() -> None:
    level_TU = log_magnitudes(torch.tensor([[0.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    assert level_TU.isfinite().all()
    assert level_TU[0, 2] - level_TU[0, 0] == pytest.approx(math.log(3e6), rel=1e-4)
    assert level_TU[1].tolist() == [0, 0, 0, 0]


def test_statistics_by_hand() -> None:
    # Unit 0 always, unit 1 never, unit 2 in pairs of tokens.
    mask_TU = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 1]], dtype=np.bool_)
    found = site_statistics(Trace.from_masks({"a": mask_TU}, {}), "a")
    assert found.units == 3 and found.density == pytest.approx(8 / 15)
    assert found.popularity[1] == pytest.approx(0.6)
    # Unit 2 one token on: both in 1 of 4 pairs; 2 of the first four touch it, 2 of the last four; variance 0.6 * 0.4.
    assert found.correlation[0] == pytest.approx((1 / 4 - 2 / 4 * 2 / 4) / 0.24)
    assert found.correlation[1:] == (None, None)
    full = Trace.from_masks({"a": np.ones((3, 2), dtype=np.bool_)}, {})
    assert site_statistics(full, "a").correlation == (None, None, None)


def test_statistics_of_a_drawn_trace_in_pieces() -> None:
    """Longer than a piece: the counts are those of the whole mask."""
    trace = uniform_trace({"a": 20}, {"a": 8}, tokens=700, seed=3)
    mask_TU = trace.mask("a").astype(np.float64)
    found = site_statistics(trace, "a")
    centred = [(mask_TU[8:] * mask_TU[:-8]).mean(0) - mask_TU[8:].mean(0) * mask_TU[:-8].mean(0)]
    variance = mask_TU.mean(0) * (1 - mask_TU.mean(0))
    assert found.correlation[1] == pytest.approx(centred[0].sum() / variance.sum())


def test_between_two_depths() -> None:
    first, last = site(popularity=1.0, persistent=0.2), site(popularity=3.0, persistent=0.4)
    last = last.model_copy(update={"depth": 1.0})
    model = default_activity().model_copy(update={"input": (first, last), "glu": (first,)})
    found = model.at("input", 0.25)
    np.testing.assert_allclose(found.popularity, 1.5 * GRID_G)
    assert (found.persistent, found.depth) == pytest.approx((0.25, 0.25))
    assert model.at("input", 1.0) == last
    assert model.at("glu", 0.9) == first == model.at("another", 0.0)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = default_activity()
    model.save(tmp_path / "a.json")
    again = ActivityModel.load(tmp_path / "a.json")
    assert again == model and again.digest == model.digest
    assert "fitted on demo" in model.label and model.label.startswith("synthetic")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "trace"}, "no model of activity"),
        ({"schema": 2}, "newer dipc"),
        ({"extra": 1}, "extra: unknown key"),
        ({"glu": []}, "glu"),
        ({"depth": 2.0}, "input.0.depth"),
        ({"noise": [0.0]}, "input.0.noise"),
        ({"noise": sorted(GRID_G.tolist(), reverse=True)}, "noise must not fall"),
        ({"persistence": 1.0}, "input.0.persistence"),
        ({"persistence": "0.5"}, "input.0.persistence"),
        ({"twice": True}, "depths of input must rise"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    data = json.loads(default_activity().to_bytes())
    if "twice" in change:
        data["input"] = [data["input"][0]] * 2
    elif change.keys() & data["input"][0].keys():
        data["input"][0] |= change
    else:
        data |= change
    file = tmp_path / "a.json"
    file.write_text(json.dumps(data))
    with pytest.raises(BadFile) as error:
        ActivityModel.load(file)
    assert said in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        ActivityModel.load(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match="not valid JSON"):
        ActivityModel.load(tmp_path / "a.json")


def test_a_trace_of_a_model_without_weights(config: Program) -> None:
    program = api.compile(config, "dip{density=0.4}").program
    trace = synthetic_trace(program, 7, tokens=50)
    active = active_units(program)
    assert trace.tokens == 50 and set(trace.units.values()) == {64, 200}
    for name in trace.sites:
        assert set(trace.mask(name).sum(axis=1).tolist()) == {active[name]}
    assert trace.meta["source"] == default_activity().label and trace.meta["seed"] == 7
    again, other = synthetic_trace(program, 7, tokens=50), synthetic_trace(program, 8, tokens=50)
    for name, packed in trace.sites.items():
        np.testing.assert_array_equal(again.sites[name], packed)
        assert not np.array_equal(other.sites[name], packed)


@pytest.mark.parametrize("policy", ["lfu", "lru", "static"])
def test_a_cache_aware_site_selects_in_closed_loop(
    config: Program, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = api.compile(config, f"dip-ca{{density=0.4 gamma=0.2 policy={policy}}}").program
    program = with_capacities(program, {s.name: 30 for s in lower(program).sites})
    trace = synthetic_trace(program, 1, tokens=40)
    monkeypatch.setattr("dipc.memory.synthetic.scores._PIECE_SCORES", 7 * 200)  # in pieces of 7 tokens, or 21
    pieces = synthetic_trace(program, 1, tokens=40)
    for number, (name, packed) in enumerate(trace.sites.items()):
        np.testing.assert_array_equal(pieces.sites[name], packed)
        units = trace.units[name]
        depth = float(name.split(".")[1])
        scores = Scores(default_activity().at(name.rpartition(".")[2], depth), units, (1, number))
        state = CacheState.empty(units)
        freq = state.freq if get_policy(policy).counts else torch.from_numpy(scores.ranks_U)
        score_TU = torch.from_numpy(scores.draw(40))
        k = active_units(program)[name]
        select = operators.target("select_cache_aware")
        given = (score_TU, state.cached, freq, state.last_used, state.t, k, 30, 0.2, policy)
        mask = select(*given)[0]  # type: ignore[operator]
        np.testing.assert_array_equal(trace.mask(name), mask.numpy())


def test_what_cannot_be_drawn_is_refused(config: Program, demo: Program) -> None:
    dip = api.compile(config, "dip").program
    for tokens, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match="at least 1 and at least 0"):
            synthetic_trace(dip, seed, tokens)
    with pytest.raises(UsageError, match="compile it with a method"):
        synthetic_trace(api.compile(config, "outline-glu").program, 0)
    with pytest.raises(UsageError, match="no weights"):
        fit_activity(config)
    trace = synthetic_trace(dip, 0, tokens=4)
    assert api.to_dict(trace)["tokens"] == 4
    assert api.to_dict(default_activity())["digest"] == default_activity().digest
    with pytest.raises(UsageError, match="either a trace or a model of activity"):
        api.estimate(dip, trace=trace, activity=default_activity())


def test_every_price_of_it_says_what_it_rests_on(config: Program) -> None:
    program = api.compile(config, "dip").program
    found = api.estimate(program, dram="75%", context=0, seed=5)
    assert found.source == default_activity().label and found.seed == 5
    assert api.to_dict(found)["source"].startswith("synthetic")
    given = api.estimate(program, dram="75%", context=0, trace=synthetic_trace(program, 5))
    assert given.source == f"{default_activity().label}; a given trace"
    assert given.sparse is not None and found.sparse is not None
    np.testing.assert_array_equal(given.sparse.flash_bytes, found.sparse.flash_bytes)
    fitted = default_activity().fitted.model_copy(update={"model": "another"})
    other = api.estimate(program, dram="75%", activity=default_activity().model_copy(update={"fitted": fitted}))
    assert "fitted on another" in other.source


def test_the_shipped_model_is_what_the_demo_gives(demo: Program) -> None:
    found, shipped = fit_activity(demo), default_activity()
    assert found.fitted.model_copy(update={"dipc": ""}) == shipped.fitted.model_copy(update={"dipc": ""})
    for mine, theirs in zip((*found.input, *found.glu), (*shipped.input, *shipped.glu), strict=True):
        np.testing.assert_allclose(mine.popularity, theirs.popularity, atol=0.02)
        np.testing.assert_allclose(mine.noise[4:], theirs.noise[4:], atol=0.02)  # below, a few values near 0 decide
        assert mine.persistent == pytest.approx(theirs.persistent, abs=0.01)
        assert mine.persistence == pytest.approx(theirs.persistence, abs=0.05)


def hit_rates(trace: Trace) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[sites, cases]: hits per access after a quarter of the tokens, by policy and capacity."""
    warm, found = trace.tokens // 4, []
    for name, packed in trace.sites.items():
        accesses = trace.mask(name)[warm:].sum()
        cases = [(get_policy(p), int(part * trace.units[name])) for p in POLICIES for part in PARTS]
        replays = replay_site(packed, trace.units[name], cases)
        found.append([float(r.hits_T[warm:].sum() / accesses) for r in replays])
    return np.array(found)


@pytest.mark.parametrize(
    ("method", "of_a_site", "of_a_case"),
    [
        ("dip{density=0.5}", 0.03, 0.01),
        ("dip{density=0.3}", 0.08, 0.03),
        ("dip-ca{density=0.5 gamma=0.2}", 0.04, 0.015),
    ],
)
def test_caches_meet_it_as_they_meet_real_activity(
    demo: Program, method: str, of_a_site: float, of_a_case: float
) -> None:
    """Hit rates are within these bounds of the recorded trace's, and those of uniform masks are not."""
    program = api.compile(demo, method).program
    program = with_capacities(program, {s.name: s.units // 2 for s in lower(program).sites})
    real = evaluate(program, seq_len=512, max_tokens=1024, record=True).trace
    assert real is not None
    real_rates = hit_rates(real)
    apart = hit_rates(synthetic_trace(program, 0, tokens=1024)) - real_rates
    assert np.abs(apart).max() < of_a_site and np.abs(apart.mean(0)).max() < of_a_case
    active = {name: int(real.mask(name)[0].sum()) for name in real.sites}
    uniform = hit_rates(uniform_trace(real.units, active, tokens=1024, seed=0)) - real_rates
    assert np.abs(uniform).max() > of_a_site and np.abs(uniform.mean(0)).max() > of_a_case
