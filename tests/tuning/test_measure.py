"""Calibrating: the quantiles of a stream, the Jacobian's columns, predictors that learn, and all of it of a model."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear, silu

from dipc.api import calibrate
from dipc.calibration.file import PARTS, Calibration
from dipc.errors import BadFile, NotFinite, UnsupportedModel, UsageError
from dipc.ir.program import Program
from dipc.ops.glu import reference
from dipc.passes.dip import Dip
from dipc.pipeline.runner import run_pipeline
from dipc.text import encode
from dipc.tuning.activity import Activity, Watcher
from dipc.tuning.jacobian import SensitivityStudy
from dipc.tuning.magnitudes import Histogram
from dipc.tuning.predictors import train_predictors
from dipc.tuning.unfinished import folder_beside, remove_steps
from kit.byte_text import WORDS, byte_tokenizer
from kit.tiny_models import one_glu, outlined, random_ids, tiny_llama, tiny_model

TEXT = " ".join(f"{i} {WORDS}" for i in range(40))
QUICK = ("thresholds", "sensitivity")

magnitudes = st.lists(st.floats(0, width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200)


def calibrated(program: Program, **options: Any) -> Calibration:
    return calibrate(program, TEXT, **{"parts": QUICK, "max_tokens": 640, "seq_len": 64, **options})


@cache
def tiny() -> Program:
    """A program that reads bytes."""
    return outlined(vocab_size=257).replace(tokenizer=byte_tokenizer())


@cache
def tiny_calibration() -> Calibration:
    return calibrated(tiny())


@given(magnitudes)
def test_quantiles_of_a_stream_are_within_a_bin_of_the_exact_ones(values: list[float]) -> None:
    exact = np.quantile(np.array(values, np.float32), np.linspace(0, 1, 9), method="inverted_cdf")
    histogram = Histogram()
    for value in values:
        histogram.add(torch.tensor([value]))
    got = histogram.quantiles(9)
    assert bool((got.diff() >= 0).all()) and float(got[0]) >= 0
    # At least the smallest bin's width: below it everything is as good as zero.
    np.testing.assert_allclose(got.numpy(), exact, rtol=1 / 128, atol=2.0**-126)


@given(magnitudes, st.integers(1, 7))
def test_it_does_not_matter_how_a_stream_is_cut(values: list[float], piece: int) -> None:
    whole, pieces, halves = Histogram(), Histogram(), [Histogram(), Histogram()]
    tensor = torch.tensor(values)
    whole.add(tensor)
    for i, chunk in enumerate(tensor.split(piece)):
        pieces.add(chunk)
        halves[i % 2].add(chunk)
    if len(tensor) > piece:
        halves[0].merge(halves[1])
    for other in (pieces, halves[0]):
        assert torch.equal(other.counts, whole.counts)
        assert torch.equal(other.quantiles(5), whole.quantiles(5))


def test_many_small_values_are_resolved_as_well_as_large_ones() -> None:
    values = torch.logspace(-30, 30, 50_001, dtype=torch.float64).float()
    histogram = Histogram()
    histogram.add(values)
    got = histogram.quantiles(1025)
    torch.testing.assert_close(got, values.quantile(torch.linspace(0, 1, 1025)), rtol=0.003, atol=0)
    assert got[0] == values[0] and got[-1] == values[-1]


def test_statistics_by_hand() -> None:
    histogram = Histogram()
    histogram.add(torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
    assert histogram.statistics().tolist() == [2.0, 7.5, 5.0]


def test_a_threshold_among_exact_zeros_is_zero() -> None:
    histogram = Histogram()
    histogram.add(torch.tensor([0.0] * 6 + [1.0] * 4))
    assert histogram.quantiles(11).tolist()[:6] == [0.0] * 6
    assert histogram.quantiles(11)[-1] == 1


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    histogram = Histogram()
    histogram.add(torch.tensor([1.0, value]))
    with pytest.raises(UsageError, match="not finite"):
        histogram.quantiles(5)


def test_what_is_watched_is_what_the_model_computes() -> None:
    """Against hooks on the original model."""
    model: Any = tiny_model(vocab_size=257)
    ids = random_ids(64, 257)
    expected: list[Tensor] = []
    for layer in model.model.layers:
        for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            matrix.register_forward_pre_hook(lambda _, given: expected.append(given[0][0]))
    with torch.no_grad():
        model(ids[None])
    seen: list[Activity] = []
    Watcher(tiny(), seen.append).read(ids)
    assert [a.mlp.name for a in seen] == [m.name for m in tiny().mlps]
    for activity, x, hidden in zip(seen, expected[::3], expected[2::3], strict=True):
        torch.testing.assert_close(activity.x, x)
        torch.testing.assert_close(activity.score("input"), x.abs())
        torch.testing.assert_close(activity.score("glu"), hidden.abs())
        torch.testing.assert_close(activity.score("gate"), silu(linear(x, activity.w_gate)).abs())
        torch.testing.assert_close(activity.score("up"), linear(x, activity.w_up).abs())


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_sensitivity_against_the_exact_jacobian(activation: str) -> None:
    generator = torch.Generator().manual_seed(3)
    gate, up = (torch.randn(9, 6, generator=generator) for _ in range(2))
    down, x = torch.randn(6, 9, generator=generator), torch.randn(4, 6, generator=generator)
    study = SensitivityStudy(seed=0, probes=4000)
    Watcher(one_glu(gate, up, down, activation), study.see).read(x)

    def mlp(row: Tensor) -> Tensor:
        return reference(row, gate, up, down, activation=activation)

    jacobians = torch.stack([torch.autograd.functional.jacobian(mlp, row) for row in x])  # [T, out, in]
    exact = jacobians.square().sum(1).mean(0).sqrt()
    torch.testing.assert_close(study.tensors()["sensitivity.layers.0"], exact, rtol=0.04, atol=0)


def scores_of(program: Program, rows: Tensor) -> dict[tuple[str, str], Tensor]:
    """All scores [T, U] by MLP and name, of all rows."""
    found: dict[tuple[str, str], list[Tensor]] = {}

    def see(activity: Activity) -> None:
        for score in ("input", "gate", "up", "glu"):
            found.setdefault((activity.mlp.site_prefix, score), []).append(activity.score(score))

    watcher = Watcher(program, see)
    for row in rows:
        watcher.read(row)
    return {key: torch.cat(values) for key, values in found.items()}


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1])
def test_the_share_above_a_threshold_is_the_density(density: float) -> None:
    made = tiny_calibration()
    assert made.windows().shape == (10, 64)  # all of the text, so that it can be read again
    scores = scores_of(tiny(), made.windows())
    for (mlp, score), values in scores.items():
        assert float((values >= made.threshold(mlp, score, density)).float().mean()) == pytest.approx(density, abs=0.01)
        assert made.tensors[f"statistics.{mlp}.{score}"][2] == values.max()
    for score in ("input", "gate", "up", "glu"):
        both = torch.cat([scores[mlp, score].flatten() for mlp in made.mlps])
        share = float((both >= made.global_threshold(score, density)).float().mean())
        assert share == pytest.approx(density, abs=0.01)


def test_popularity_counts_tokens_in_which_a_unit_is_among_the_larger_half() -> None:
    made = tiny_calibration()
    for (mlp, score), values in scores_of(tiny(), made.windows()).items():
        if score in ("input", "glu"):
            larger = values >= values.sort(-1).values[:, values.shape[-1] // 2, None]
            torch.testing.assert_close(made.popularity(mlp, score), larger.float().mean(0))


def test_the_result_says_what_it_was_measured_on() -> None:
    made = tiny_calibration()
    assert made.parts == QUICK
    expected = {"digest": tiny().info.digest, "text": "text", "tokens": 640, "seq_len": 64, "seed": 0}
    assert expected.items() <= made.meta.items()


def test_the_same_seed_gives_the_same_bits() -> None:
    parts = (*QUICK, "predictors")
    options: dict[str, Any] = {"parts": parts, "hidden": 8, "epochs": 2, "max_tokens": 256}
    first, second, other = (calibrated(tiny(), seed=seed, **options) for seed in (0, 0, 1))
    assert set(first.tensors) == set(second.tensors) == set(other.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(second.tensors[name], tensor)
        if name.startswith(("sensitivity", "predictor")):
            assert not torch.equal(other.tensors[name], tensor)
        if name.startswith(("quantiles", "popularity")):
            assert torch.equal(other.tensors[name], tensor)


def test_a_compiled_program_is_measured_as_the_model_it_came_from() -> None:
    compiled = run_pipeline(tiny(), [Dip(density=0.5)]).program
    made = calibrated(compiled)
    for name, tensor in tiny_calibration().tensors.items():
        assert torch.equal(made.tensors[name], tensor)


def test_a_program_as_captured_is_outlined_first() -> None:
    plain = tiny_llama(vocab_size=257).replace(tokenizer=byte_tokenizer())
    assert torch.equal(calibrated(plain).sensitivity("layers.1"), tiny_calibration().sensitivity("layers.1"))


def live_bytes(seq_len: int) -> int:
    """Of all tensors but the text's windows."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is Tensor and t.shape != (seq_len,)
    }
    return sum(storages.values())


def test_memory_does_not_grow_with_the_text() -> None:
    def most(windows: int) -> int:
        found: list[int] = []

        def measure(what: str, done: int, total: int) -> None:
            if done == total:
                encode.cache_clear()
                found.append(live_bytes(8))

        options: dict[str, Any] = {"parts": (*QUICK, "predictors"), "hidden": 8, "epochs": 1}
        calibrated(tiny(), max_tokens=8 * windows, seq_len=8, progress=measure, **options)
        return max(found)

    assert most(3 * 64) <= most(64)  # 64 windows are kept as a sample, of either text


def test_the_sample_is_spread_over_the_text() -> None:
    made = calibrated(tiny(), parts=(), max_tokens=None, seq_len=8)
    every = torch.tensor(tiny().tokenizer(TEXT, verbose=False)["input_ids"])
    rows = every[: len(every) // 8 * 8].reshape(-1, 8)
    assert made.windows().shape == (64, 8) and made.parts == ()
    stretch = len(rows) / 64
    for i, window in enumerate(made.windows()):
        near = rows[int(i * stretch) : int((i + 1) * stretch) + 1]
        assert bool((near == window).all(-1).any())
    assert not torch.equal(calibrated(tiny(), parts=(), max_tokens=None, seq_len=8, seed=1).windows(), made.windows())


@cache
def learnable() -> tuple[Program, list[Tensor]]:
    """One MLP of 8 inputs and 40 units, and random windows for it."""
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(40, 8, generator=generator) for _ in range(2))
    spread = torch.logspace(-2, 2, 8)  # channels of very different size, as after a norm with outliers
    program = one_glu(gate / spread, up / spread, torch.randn(8, 40, generator=generator), "silu")
    return program, [torch.randn(256, 8, generator=generator) * spread for _ in range(20)]


def test_predictors_learn_which_units_are_large() -> None:
    program, windows = learnable()
    made = train_predictors(program, windows, hidden=64, epochs=20)
    recall = made["recall.layers.0"].tolist()
    assert recall[0] > 0.6 and recall[1] > 0.7  # 0.1 and 0.5 by chance
    w1, b1, w2, b2 = (made[f"predictor.layers.0.{part}"] for part in ("w1", "b1", "w2", "b2"))
    assert w1.shape == (64, 8) and b1.shape == (64,) and w2.shape == (40, 64) and b2.shape == (40,)
    held = torch.cat([windows[9], windows[19]])
    logits = linear(linear(held, w1, b1).relu(), w2, b2)
    scores: list[Activity] = []
    Watcher(program, scores.append).read(held)
    truth, guess = (set_of_largest(v, 4) for v in (scores[0].score("glu"), logits))
    assert float((truth & guess).sum() / truth.sum()) == pytest.approx(recall[0], abs=0.002)


def set_of_largest(values: Tensor, count: int) -> Tensor:
    return values >= values.sort(-1, descending=True).values[:, count - 1, None]


def passes(program: Program, windows: list[Tensor], **options: Any) -> tuple[dict[str, Tensor], int]:
    """What was trained, and in how many passes."""
    seen: list[str] = []
    made = train_predictors(program, windows, progress=lambda what, *_: seen.append(what), **options)
    return made, int(seen[-1].split()[2])


def test_a_channel_that_never_moves_leaves_weights_of_a_size_that_float16_holds() -> None:
    program, windows = learnable()
    still = [w * (torch.arange(8) != 3) for w in windows[:4]]
    made = train_predictors(program, still, hidden=64, epochs=1)
    assert made["predictor.layers.0.w1"].half().isfinite().all()


def test_a_predictor_of_values_that_are_not_finite_is_refused() -> None:
    program, windows = learnable()
    with pytest.raises(NotFinite, match="by hand: mlp is the first to compute NaN"):
        train_predictors(program, [w * torch.nan for w in windows[:2]], hidden=8, epochs=1)


def test_a_predictor_stops_when_what_is_held_out_hardly_gains_any_more() -> None:
    program, windows = learnable()
    few = [w[:64] for w in windows[:4]]
    _, count = passes(program, few, hidden=64, epochs=200)
    assert 2 < count < 200


def test_a_predictor_that_got_worse_is_not_kept() -> None:
    program, windows = learnable()
    # The last is held out, and shares nothing with the others: the more is learnt, the worse it is guessed.
    alien = [*(w.abs() for w in windows[:3]), -windows[3].abs()]
    made, count = passes(program, alien, hidden=64, epochs=20)
    assert 1 < count < 20
    best, _ = passes(program, alien, hidden=64, epochs=count - 1)
    assert all(torch.equal(best[name], made[name]) for name in made)


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="text: its 40 tokens are less than a window of 64; give more text"):
        calibrate(tiny(), WORDS[:40])
    with pytest.raises(UsageError, match="no part of a calibration named 'threshold'; did you mean 'thresholds'"):
        calibrated(tiny(), parts=("threshold",))
    with pytest.raises(UsageError, match="seed is -1"):
        calibrated(tiny(), seed=-1)
    with pytest.raises(UsageError, match="came without a tokenizer"):
        calibrated(outlined())
    with pytest.raises(UsageError, match="one window cannot both be learnt from and held out"):
        calibrated(tiny(), parts=("predictors",), max_tokens=64)
    with pytest.raises(UsageError, match="hidden is 0"):
        calibrated(tiny(), parts=("predictors",), hidden=0)
    with pytest.raises(
        UnsupportedModel, match=r"outline-glu found nothing to rewrite in tiny .*its activation is tanh"
    ):
        calibrated(tiny_llama(vocab_size=257, hidden_act="tanh").replace(tokenizer=byte_tokenizer()))


def test_a_model_that_computes_nan_is_named() -> None:
    broken = {
        n: torch.full_like(w, torch.nan) if n.endswith("up_proj.weight") else w for n, w in tiny().weights.items()
    }
    with pytest.raises(NotFinite, match=r"model\.layers\.0\.mlp\.up_proj\.weight holds NaN"):
        calibrated(tiny().replace(weights=broken))


class Ended(Exception):
    """A process that was ended, as far as a test can end one."""


@pytest.mark.parametrize("stage", ["activations", "predictors", "density allocation"])
def test_a_calibration_that_was_ended_goes_on(tmp_path: Path, stage: str) -> None:
    """What was finished is not measured again, and the result is what it would have been."""
    options: dict[str, Any] = {"parts": PARTS, "max_tokens": 256, "hidden": 4, "epochs": 1, "allocation_tokens": 64}
    folder = tmp_path / "out.unfinished"

    def end(what: str, done: int, total: int) -> None:
        if what.startswith(stage) and done == total:
            raise Ended

    with pytest.raises(Ended):
        calibrated(tiny(), **options, unfinished=folder, progress=end)
    seen: list[str] = []
    resumed = calibrated(
        tiny(), **options, unfinished=folder, progress=lambda what, *_: seen.append(what.split(",")[0])
    )
    assert (
        set(seen)
        == {
            "activations": {"activations", "predictors", "density allocation"},
            "predictors": {"predictors", "density allocation"},
            "density allocation": set(),
        }[stage]
    )
    whole = calibrated(tiny(), **options)
    assert resumed.meta == whole.meta and resumed.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in resumed.tensors.items())


def test_steps_of_another_calibration_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out.unfinished"
    calibrated(tiny(), parts=("thresholds",), unfinished=folder)
    with pytest.raises(UsageError, match=r"out\.unfinished: a calibration with seq_len 64 and not 32 is unfinished; "):
        calibrated(tiny(), parts=("thresholds",), seq_len=32, unfinished=folder)
    (step,) = folder.iterdir()
    step.write_bytes(step.read_bytes()[:100])
    with pytest.raises(BadFile, match=r"thresholds\.safetensors: damaged.*remove it, and the step is made again"):
        calibrated(tiny(), parts=("thresholds",), unfinished=folder)
    for place in (folder, folder, None):
        remove_steps(place)
    assert not folder.exists()
    calibrated(tiny(), parts=("thresholds",), unfinished=folder)


def test_steps_are_kept_beside_files_only(tmp_path: Path) -> None:
    assert folder_beside(tmp_path / "a.st") == tmp_path / "a.st.unfinished"
    assert folder_beside(Path("/dev/null")) is None
