"""Methods that read a calibration: thresholds, predictors, scores and densities; and what is said without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dipc
from dipc.api import compile
from dipc.calibration.density_allocation import DensityAllocation
from dipc.calibration.file import Calibration
from dipc.errors import BadFile, UsageError
from dipc.ir.selections import selections
from dipc.memory.lowering import active_units, lower, program_density
from dipc.passes.cats import Cats
from dipc.passes.dip import Dip
from dipc.passes.gate import GatePruning
from dipc.passes.wina import Wina
from dipc.pipeline.runner import with_calibration
from dipc.pipeline.text import parse_pipeline
from kit.command_line import Cli
from kit.handmade_calibration import saved, tiny_calibration
from kit.runs import run_pieces
from kit.tiny_models import outlined, random_ids, tiny_llama
from kit.worked_example import X, call, hand, masks

META = {"model": "by hand", "digest": "0"}


def by_hand(folder: Path, **tensors: Any) -> str:
    """A calibration of the program by hand that holds these tensors; `__` stands for a dot."""
    named = {name.replace("__", "."): torch.as_tensor(value, dtype=torch.float32) for name, value in tensors.items()}
    return saved(Calibration(META, named), folder)


# --- Thresholds ---


def test_cats_keeps_what_reaches_the_threshold(tmp_path: Path) -> None:
    # (3 x 0.5 - 1) / 2 = 1/4 of the units are to pass: three quarters of the scores are below 5.
    path = by_hand(tmp_path, quantiles__layers__0__gate=[0, 1, 4, 5, 9])
    program = Cats(density=0.5, calibration=path).run(hand()).program
    # act(gate x) is [4, 6, 9, 2], a fourth of it for the second token, and [4, 6, 14, 2] with 6 as input 3.
    both = torch.cat([X, X / 4, torch.tensor([[[4.0, -3.0, 2.0, 6.0]]])], 1)
    assert masks(program, both) == {"layers.0.glu": [[1, 2], [], [1, 2]]}
    # Units 1 and 2 contribute 18 and 9 times the same column; none gives nothing.
    out = call(program, both)[0][0]
    assert out[0].tolist() == [27 * n for n in (5.0, 6.0, 7.0, 8.0)]
    assert out[1].tolist() == [0.0] * 4


def test_a_score_at_the_threshold_is_kept(tmp_path: Path) -> None:
    path = by_hand(tmp_path, quantiles__layers__0__gate=[0, 1, 4, 6, 9])
    assert masks(Cats(calibration=path).run(hand()).program, X) == {"layers.0.glu": [[1, 2]]}


def test_thresholds_of_a_layer_and_of_all(tmp_path: Path) -> None:
    found: dict[str, dict[str, Tensor]] = {}
    for threshold in ("token", "layer", "global"):
        program = compile(outlined(), f"gate{{threshold={threshold}}}", calibration=tiny_calibration()).program
        found[threshold] = run_pieces(program, random_ids(64, seed=3), 64)[1]
        assert active_units(program) == {"layers.0.glu": 12, "layers.1.glu": 12} and program.method.density == 0.5
    shares = {t: [float(m.float().mean()) for m in seen.values()] for t, seen in found.items()}
    assert shares["token"] == [0.25, 0.25]
    # On the text it was measured on: each layer keeps its share, or both together do. (Layer 1 reads another input
    # than when it was measured, because layer 0 is pruned too.)
    assert shares["layer"][0] == pytest.approx(0.25, abs=0.002) and shares["layer"][1] == pytest.approx(0.25, abs=0.05)
    assert shares["global"] != shares["layer"] and sum(shares["global"]) / 2 == pytest.approx(0.25, abs=0.05)
    counts = found["layer"]["layers.0.glu"].sum(-1)
    assert counts.min() < 12 < counts.max()


def test_cats_by_token_is_gate() -> None:
    ids = random_ids(20)
    same = [run_pieces(p.run(outlined()).program, ids, 20)[0] for p in (Cats(threshold="token"), GatePruning())]
    assert torch.equal(*same)


# --- Predictors and sensitivities ---


def test_a_predictor_decides_for_all_three_matrices(tmp_path: Path) -> None:
    # Two hidden units, relu(x0) = 4 and relu(-x1 - 1) = 2; logits 4, 2 + 2, 2 - 4 + 3 and -4 of the four units.
    tensors = {
        "w1": [[1, 0, 0, 0], [0, -1, 0, 0]],
        "b1": [0, -1],
        "w2": [[1, 0], [0, 1], [-1, 1], [-1, 0]],
        "b2": [0, 2.5, 3, 0],
    }
    path = by_hand(tmp_path, **{f"predictor__layers__0__{name}": value for name, value in tensors.items()})
    program = compile(hand(), "predictor{density=0.25}", calibration=path).program
    assert masks(program, X) == {"layers.0.glu": [[1]]}
    assert call(program, X)[0].tolist() == [[[90.0, 108.0, 126.0, 144.0]]]
    assert {s.name: s.weights for s in lower(program).sites} == {"layers.0.glu": 48}
    # 8 + 2 + 8 + 4 numbers of 32 bits that every token reads.
    assert lower(program).resident_bytes == 4 * 22 and program.parameter_count == 48 + 22


def test_sensitivity_ranks_inputs_by_what_was_measured(tmp_path: Path) -> None:
    # |x| = [4, 3, 2, 1] times this is [4, 30, 2, 50]: x^ = [0, -3, 0, 1] gives g^ = [0, 0, 1, 0], u^ = [0, 1, 1, 3].
    path = by_hand(tmp_path, sensitivity__layers__0=[1, 10, 1, 50])
    program = compile(hand(), "sensitivity{rho_in=0.5 rho_glu=0.25}", calibration=path).program
    assert masks(program, X) == {"layers.0.input": [[1, 3]], "layers.0.glu": [[2]]}
    assert call(program, X)[0].tolist() == [[[5.0, 6.0, 7.0, 8.0]]]


@pytest.mark.parametrize("name", ["wina", "sensitivity"])
def test_cache_aware_forms_give_their_scores_to_the_cache(name: str, tmp_path: Path) -> None:
    path = by_hand(tmp_path, sensitivity__layers__0=[1, 3, 2, 5])
    options = "rho_in=0.25 rho_glu=1"
    program = compile(hand(), f"{name}-ca{{{options} gamma=0.1 capacity=0.5}}", calibration=path).program
    weight = {"wina": "mlp.norm.input", "sensitivity": "mlp.sensitivity"}[name]
    x = 4 * torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(2))
    score = x.abs() * program.weights[weight]
    state = (torch.zeros(4, dtype=torch.bool), torch.zeros(4).long(), torch.full((4,), -1), torch.tensor(0))
    expected = torch.ops.dipc.select_cache_aware(score, *state, 1, 2, 0.1)[0]
    assert masks(program, x)["layers.0.input"] == expected[0].nonzero()[:, 1:].tolist()
    plain = compile(hand(), f"{name}{{{options}}}", calibration=path).program
    assert masks(program, x) != masks(plain, x)
    uncached = compile(hand(), f"{name}-ca{{{options} policy=none}}", calibration=path).program
    assert masks(uncached, x) == masks(plain, x)


# --- Densities as calibrated ---


def test_one_split_for_all_mlps() -> None:
    split = Calibration.load(tiny_calibration()).allocation
    assert split is not None
    rho_in, rho_glu = split.split(0.6)
    assert rho_in != pytest.approx(0.6) and (2 * rho_in + rho_glu) / 3 == pytest.approx(0.6)
    program = compile(outlined(), "dip{density=0.6 allocation=split}", calibration=tiny_calibration()).program
    given = Dip(rho_in=rho_in, rho_glu=rho_glu).run(outlined()).program
    assert active_units(program) == active_units(given) and program_density(program) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("name", ["dip", "wina", "dip-ca"])
def test_a_split_for_each_mlp(name: str) -> None:
    """Layer 1, where pruning was made to cost a quarter as much, is pruned first; the mean is the target."""
    program = compile(outlined(), f"{name}{{density=0.7 allocation=layers}}", calibration=tiny_calibration()).program
    active = active_units(program)
    assert active["layers.0.input"] > active["layers.1.input"] and active["layers.0.glu"] > active["layers.1.glu"]
    assert program_density(program) == pytest.approx(0.7, abs=0.02)


def test_a_split_is_made_among_the_layers_that_are_pruned() -> None:
    text = "dip{density=0.7 layers=1 allocation=layers}"
    program = compile(outlined(), text, calibration=tiny_calibration()).program
    kept = [active_units(program)[f"layers.1.{site}"] for site in ("input", "glu")]
    assert (2 * kept[0] / 32 + kept[1] / 48) / 3 == pytest.approx(0.7, abs=0.02)


def test_equal_densities_need_no_calibration() -> None:
    path = tiny_calibration()
    assert compile(outlined(), "dip", calibration=path).program.text() == compile(outlined(), "dip").program.text()


def test_an_allocation_and_a_share_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="dip: allocation=split decides rho_in; leave it out"):
        Dip(allocation="split", rho_in=0.5)
    with pytest.raises(UsageError, match="dip: allocation=best: choose equal or square or split or layers"):
        Dip(allocation="best")  # type: ignore[arg-type]


def test_keeping_everything_takes_no_allocation() -> None:
    assert Dip(allocation="layers", density=0.5).exact() == Dip(density=1.0, rho_in=1.0, rho_glu=1.0)


# --- Without, or with the wrong one ---

NEEDY = ["cats", "predictor", "sensitivity", "sensitivity-ca", "up{threshold=global}", "dip{allocation=layers}"]


@pytest.mark.parametrize("text", NEEDY)
def test_a_method_without_its_calibration_says_how_to_make_one(text: str) -> None:
    assert str(parse_pipeline(text)[0]) == text
    with pytest.raises(UsageError) as caught:
        compile(outlined(), text)
    expected = f"{text} needs a calibration: run `dipc calibrate MODEL --text TEXT -o FILE` and add calibration=FILE"
    assert str(caught.value) == expected and caught.value.exit_code == 2


@pytest.mark.parametrize("text", NEEDY)
def test_a_calibration_of_another_model_is_refused(text: str, tmp_path: Path) -> None:
    found = Calibration.load(tiny_calibration())
    path = saved(dataclasses.replace(found, meta={"model": "other", "digest": "1234"}), tmp_path)
    with pytest.raises(BadFile, match=r"made for other \(digest 1234\), not for tiny"):
        compile(outlined(), text, calibration=path)


@pytest.mark.parametrize("text", NEEDY)
def test_a_calibration_without_the_part_is_refused(text: str, tmp_path: Path) -> None:
    windows = {"windows": torch.zeros(1, 4).long()}
    meta = {"model": "tiny", "digest": tiny_llama().info.digest}
    with pytest.raises(BadFile, match=r"made without .*; run `dipc calibrate`") as caught:
        compile(outlined(), text, calibration=saved(Calibration(meta, windows), tmp_path))
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_a_calibration_is_given_to_every_pass_that_has_none(tmp_path: Path) -> None:
    path = tiny_calibration()
    item, own, other = with_calibration(parse_pipeline("dip,cats{calibration=mine},pack"), path)
    assert (item, own) == (Dip(calibration=path), Cats(calibration="mine")) and str(other) == "pack"
    with pytest.raises(BadFile, match="there is no such calibration"):
        with_calibration([other], str(tmp_path / "none"))


def test_the_command_line_hands_a_calibration_on(cli: Cli, tmp_path: Path) -> None:
    config, path = Path(dipc.__file__).parent / "demo" / "config.json", tiny_calibration()
    plan = ["compile", config, "-p", "cats,dip{calibration=mine}", "--dry-run", "--json", "--calibration"]
    passes = cli(*plan, path).json()["passes"]
    assert [p["options"].get("calibration") for p in passes] == [None, path, "mine"]
    cli(*plan, tmp_path / "none").fails(5, "there is no such calibration")
    cli("compile", config, "-p", "glu{density=0.5}", "--dry-run").fails(2, "glu: density=0.5 cannot be reached")
    cli("compile", config, "-p", "cats", "-o", tmp_path / "out", "--calibration", path).fails(5, "made for tiny")


def test_an_allocation_is_the_same_after_saving(tmp_path: Path) -> None:
    curves = {"layers.0": torch.tensor([[3.0, 1.0], [2.0, 0.5]])}
    made = Calibration(META, DensityAllocation(0.1, 1.5, (0.4, 0.8), curves).to_tensors())
    program = Wina(density=0.6, allocation="layers", calibration=saved(made, tmp_path)).run(hand()).program
    assert set(active_units(program)) == set(selections(program))
