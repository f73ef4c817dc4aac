"""Training adapters that recover what a method loses: gradients, determinism, resumption, and what is written."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from dipc.api import Program, capture, compile, finetune
from dipc.errors import BadFile, UsageError
from dipc.passes.dip import Dip
from dipc.pipeline.pass_ import PASSES
from dipc.tuning.lora.distillation import Course, Training, compare, dense_logits
from dipc.tuning.lora.finetune import Finetuned
from dipc.tuning.lora.trainable import Adapted, Trainable, divergence
from dipc.tuning.lora.trained_adapters import TrainedAdapters
from kit.byte_text import WORDS, byte_tokenizer
from kit.handmade_calibration import calibration_of, saved
from kit.runs import relative
from kit.tiny_models import one_glu, random_ids, tiny_model

peft = pytest.importorskip("peft", reason="needs the extra finetune")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own

TEXT = WORDS * 12


def original() -> nn.Module:
    """A tiny Llama whose weights are large enough for pruning to matter."""
    return tiny_model(vocab_size=257, eos_token_id=0, bos_token_id=None, initializer_range=0.2)


@pytest.fixture(scope="module")
def model() -> Program:
    """The same as a program, with a tokenizer of bytes."""
    made = capture(original(), name="tiny")
    return dataclasses.replace(made, tokenizer=byte_tokenizer())


def train(model: Program, out: Path, passes: str = "dip", **options: Any) -> Finetuned:
    """Ten short iterations."""
    given = {"rank": 4, "iterations": 10, "seq_len": 32, "learning_rate": 5e-3, **options}
    return finetune(model, passes, TEXT, out, **given)


# --- Gradients ---


def matrices(shape: tuple[int, int], rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """A and B, neither of them zero."""
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, shape[1], generator=draw), torch.randn(shape[0], rank, generator=draw)
    return (0.3 * a).requires_grad_(), (0.3 * b).requires_grad_()


def keep(score_TU: Tensor, k: int) -> Tensor:
    """A mask of the k largest."""
    return torch.zeros_like(score_TU).scatter_(-1, score_TU.abs().topk(k).indices, 1.0)


def test_gradients_are_those_of_the_formula() -> None:
    """Eq. 7 to 9 written out: the adapters are added to the weights before columns are selected."""
    draw = torch.Generator().manual_seed(0)
    gate, up, down = (torch.randn(s, generator=draw) for s in ((12, 8), (12, 8), (8, 12)))
    program = Dip(density=0.5).run(one_glu(gate, up, down, "silu")).program
    pairs = {name: matrices(tuple(w.shape), 3, i) for i, (name, w) in enumerate(program.weights.items())}  # type: ignore[arg-type]
    adapted = {name: Adapted(program.weights[name], a, b, 0.5) for name, (a, b) in pairs.items()}
    x_TD, aim_TD = torch.randn(5, 8, generator=draw), torch.randn(5, 8, generator=draw)

    (Trainable(program, adapted).logits(x_TD) * aim_TD).sum().backward()
    got = [m.grad.clone() for pair in pairs.values() for m in pair if m.grad is not None]

    own = [m.detach().requires_grad_() for pair in pairs.values() for m in pair]
    w_gate, w_up, w_down = (w + 0.5 * b @ a for w, a, b in zip((gate, up, down), own[::2], own[1::2], strict=True))
    kept_TD = x_TD * keep(x_TD, 4)
    glu_TF = silu(kept_TD @ w_gate.T) * (kept_TD @ w_up.T)
    y_TD = (glu_TF * keep(glu_TF.detach(), 6)) @ w_down.T
    expected = torch.autograd.grad((y_TD * aim_TD).sum(), own)
    assert len(got) == len(expected) == 6
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", ["dip", "dip-ca{gamma=0.3}", "gate", "up", "wina"])
def test_without_adapters_the_differentiable_program_is_the_program(model: Program, passes: str) -> None:
    program, ids = compile(model, passes).program, random_ids(24)
    assert relative(Trainable(program, {}).logits(ids), dense_logits(program, ids)) < 1e-5


def test_only_adapters_have_gradients_and_the_weights_stay(model: Program) -> None:
    program = compile(model, "dip-ca").program
    before = {name: w.clone() for name, w in program.weights.items()}
    adapters = TrainedAdapters(program, 4, 0)
    ids = random_ids(24)
    training = Training(
        program.reference, Trainable(program, adapters.adapted), adapters.parameters, [ids], Course(2, 1, 0.1, 0)
    )
    training.step()
    training.step()
    assert all(torch.equal(w, before[name]) and not w.requires_grad for name, w in program.weights.items())
    moved = [name for name, p in adapters.parameters.items() if "lora_B" in name and bool(p.any())]
    assert len(moved) == 6


def test_divergence_by_hand() -> None:
    half, skewed = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])  # 1/2, 1/2 and 3/4, 1/4
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence(half, skewed)) == pytest.approx(expected)
    assert float(divergence(skewed, skewed)) == pytest.approx(0, abs=1e-7)


# --- What is adapted ---


def sparse_modules(model: Program, passes: str) -> set[str]:
    adapters = TrainedAdapters(compile(model, passes).program, 2, 0)
    return {m.removeprefix("model.layers.") for m in adapters.modules}


def test_adapted_is_what_the_method_reads_sparsely(model: Program) -> None:
    one = {"1.mlp.gate_proj", "1.mlp.up_proj", "1.mlp.down_proj"}
    assert sparse_modules(model, "dip{layers=1}") == one
    assert sparse_modules(model, "gate{layers=1}") == one - {"1.mlp.gate_proj"}
    assert sparse_modules(model, "up{layers=1}") == one - {"1.mlp.up_proj"}
    assert sparse_modules(model, "glu{layers=1 rho_glu=0.5}") == {"1.mlp.down_proj"}
    for passes, reason in (("outline-glu", "name a method"), ("dip,int8", "rounded")):
        with pytest.raises(UsageError, match=reason):
            sparse_modules(model, passes)


@pytest.mark.parametrize("passes", ["dip", "gate"])
def test_a_fused_projection_has_one_adapter(tmp_path: Path, passes: str) -> None:
    """The checkpoint is one of the original model; the half that the method reads whole keeps its weights."""
    options: dict[str, Any] = {"vocab_size": 257, "eos_token_id": 0, "bos_token_id": None}
    phi = dataclasses.replace(capture(tiny_model("phi3", **options), name="phi"), tokenizer=byte_tokenizer())
    result = train(phi, tmp_path / "a", passes)
    assert {m.rpartition(".")[2] for m in result.modules} == {"gate_up_proj", "down_proj"}
    program = compile(phi, result.passes).program
    merged = peft.PeftModel.from_pretrained(tiny_model("phi3", **options), tmp_path / "a").merge_and_unload()
    for layer, block in enumerate(merged.model.layers):
        halves = [program.weights[getattr(program.mlps[layer], m)] for m in ("gate", "up")]
        assert torch.equal(torch.cat(halves), block.mlp.gate_up_proj.weight)
        same = torch.equal(halves[0], phi.weights[f"model.layers.{layer}.mlp.gate_up_proj.weight"][:48])
        assert same == (passes == "gate")


# --- Training ---


def test_an_adapter_brings_the_logits_nearer_to_the_dense_ones(model: Program, tmp_path: Path) -> None:
    result = train(model, tmp_path / "a", iterations=40)
    assert result.after.divergence < 0.9 * result.before.divergence
    assert sum(result.losses[-5:]) < sum(result.losses[:5])
    assert result.dense.divergence == 0 and result.windows > result.held_out >= 1
    program = compile(model, result.passes).program
    rows = [torch.tensor(byte_tokenizer()(TEXT)["input_ids"][i : i + 32]) for i in range(0, len(TEXT), 32)]
    _, measured = compare(program.reference, [Trainable(program, {})], rows[-result.held_out :])
    assert measured.divergence == pytest.approx(result.after.divergence, rel=1e-4)
    assert measured.perplexity == pytest.approx(result.after.perplexity, rel=1e-4)


def test_the_folder_is_a_checkpoint_that_peft_loads(model: Program, tmp_path: Path) -> None:
    result = train(model, tmp_path / "a")
    assert {f.name for f in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "dipc_adapter.json",
    }
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["task_type"]) == (4, "CAUSAL_LM")
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    merged = peft.PeftModel.from_pretrained(original(), tmp_path / "a").merge_and_unload()
    program = compile(model, result.passes).program
    changed = 0
    for name, weight in merged.named_parameters():
        new = name.replace(".weight", "_lora.weight")
        if new in program.weights:
            assert torch.equal(program.weights[new], weight)
            assert not torch.equal(weight, model.weights[name])
            changed += 1
    assert changed == 6


class Stop(Exception):
    """Stands for what cuts a training off."""


def test_a_training_that_was_cut_off_ends_as_if_it_was_not(model: Program, tmp_path: Path) -> None:
    whole = train(model, tmp_path / "whole", batch=2)

    def cut_off(at: int) -> None:
        def progress(done: int, total: int) -> None:
            if done == at:
                raise Stop

        with pytest.raises(Stop):
            train(model, tmp_path / "a", batch=2, save_every_s=0, progress=progress)
        assert not (tmp_path / "a").exists() and (tmp_path / "a.unfinished.safetensors").exists()

    cut_off(3)
    cut_off(7)
    seen: list[int] = []
    parts = train(model, tmp_path / "a", batch=2, progress=lambda done, _: seen.append(done))
    assert seen == [8, 9, 10]
    assert (parts.losses, parts.after) == (whole.losses, whole.after)
    files = [(tmp_path / f / "adapter_model.safetensors").read_bytes() for f in ("whole", "a")]
    assert files[0] == files[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "whole"]


def test_the_seed_decides(model: Program, tmp_path: Path) -> None:
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (train(model, tmp_path / n, seed=s, iterations=3) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert torch.equal(torch.rand(3), drawn), "the caller's random numbers are not touched"
    assert a.losses == b.losses != c.losses


def test_a_finished_training_is_taken_as_it_is(model: Program, tmp_path: Path) -> None:
    first = train(model, tmp_path / "a", iterations=2)
    seen: list[int] = []
    again = train(model, tmp_path / "a", iterations=2, progress=lambda done, _: seen.append(done))
    assert again == first and not seen
    with pytest.raises(UsageError, match="holds an adapter with rank 4 and not 3"):
        train(model, tmp_path / "a", iterations=2, rank=3)
    with pytest.raises(UsageError, match="exists"):
        train(model, tmp_path / "a", iterations=2, resume=False)


def test_an_unfinished_training_is_not_mistaken_for_another(model: Program, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        train(model, tmp_path / "a", save_every_s=0, progress=progress)
    with pytest.raises(UsageError, match=r"learning rate 0.005 and not 0.1 is unfinished"):
        train(model, tmp_path / "a", learning_rate=0.1)
    file = tmp_path / "a.unfinished.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(BadFile, match="no unfinished training"):
        train(model, tmp_path / "a")
    train(model, tmp_path / "a", iterations=2, resume=False)
    assert not file.exists()


def test_a_file_counts_by_its_content_and_not_by_its_path(model: Program, tmp_path: Path) -> None:
    from dipc.passes.outline_glu import OutlineGlu

    outlined = OutlineGlu().run(model).program
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for folder, seed in ((one, 1), (other, 2)):
        folder.mkdir()
        saved(calibration_of(outlined, random_ids(64, 257, seed)[None]), folder)
    shutil.copytree(one, same)
    options: dict[str, Any] = {"passes": "cats", "iterations": 2}
    first = train(model, tmp_path / "a", calibration=one / "calibration.safetensors", **options)
    again = train(model, tmp_path / "a", calibration=same / "calibration.safetensors", **options)
    assert again.losses == first.losses
    with pytest.raises(UsageError, match="pipeline"):
        train(model, tmp_path / "a", calibration=other / "calibration.safetensors", **options)
    (one / "calibration.safetensors").write_bytes((other / "calibration.safetensors").read_bytes())
    with pytest.raises(UsageError, match="other files behind cats"):
        train(model, tmp_path / "a", calibration=one / "calibration.safetensors", **options)


def test_every_window_is_seen_before_any_is_seen_twice() -> None:
    course = Course(iterations=7, batch=2, learning_rate=1.0, seed=3)
    order = course.order(5).flatten()
    assert order[:5].sort().values.tolist() == order[5:10].sort().values.tolist() == list(range(5))
    assert torch.equal(order, course.order(5).flatten())
    assert not torch.equal(order, Course(7, 2, 1.0, 4).order(5).flatten())


def test_the_learning_rate_rises_and_falls() -> None:
    course = Course(iterations=100, batch=1, learning_rate=2.0, seed=0)
    assert [course.rate(i) for i in (0, 4, 5)] == pytest.approx([0.4, 2.0, 2.0])
    assert course.rate(5 + 95 // 2) == pytest.approx(1.0, abs=0.05)
    assert 0 < course.rate(99) < 0.01


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"seq_len": 65}, "context of 64"),
        ({"passes": "outline-glu"}, "name a method"),
        ({"passes": "dip,int4"}, "rounded or pruned for good"),
    ],
)
def test_bad_options_are_one_line(model: Program, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        train(model, tmp_path / "a", **options)
    assert not any(tmp_path.iterdir())


def test_a_text_of_one_window_is_too_short(model: Program, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give more text"):
        finetune(model, "dip", "The city council", tmp_path / "a")


def test_a_model_without_weights_is_not_trained(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    model: Any = tiny_model()
    config.write_text(model.config.to_json_string())
    with pytest.raises(UsageError, match="no weights to train"):
        finetune(str(config), "dip", TEXT, tmp_path / "a")


def test_methods_can_all_be_trained(model: Program) -> None:
    """Whatever is registered and needs no calibration: every adapter gets a gradient."""
    from dipc.pipeline.sparsity_pass import SparsityPass

    for name in PASSES.names():
        if not issubclass(PASSES.get(name), SparsityPass):
            continue
        try:
            program = compile(model, f"{name}{{density=0.75}}").program
        except UsageError:
            continue  # needs a calibration
        adapters = TrainedAdapters(program, 2, 0)
        ids = random_ids(16)
        divergence(dense_logits(program.reference, ids), Trainable(program, adapters.adapted).logits(ids)).backward()
        for parameter, tensor in adapters.parameters.items():
            assert tensor.grad is not None, (name, parameter)
            assert bool(tensor.grad.any()) == ("lora_B" in parameter), (name, parameter)
