"""Folding PEFT's LoRA checkpoints into the weights on the graph (Eq. 9)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dipc.api import Program, capture, compile, load, save
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile, UsageError
from dipc.memory.lowering import lower
from dipc.passes.fuse_lora import FuseLora
from dipc.tuning.lora.adapter import linear_layers
from dipc.tuning.lora.adapter_file import Checkpoint
from kit.runs import relative
from kit.tiny_models import outlined, random_ids, tiny_llama, tiny_model

peft = pytest.importorskip("peft", reason="needs the extra finetune")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own

MLP = ["gate_proj", "up_proj", "down_proj"]


def adapter(folder: Path, family: str = "llama", sizes: dict[str, Any] | None = None, **options: Any) -> Path:
    """A PEFT checkpoint with random matrices for the tiny model of a family."""
    given = {"r": 4, "lora_alpha": 6, "target_modules": MLP, "task_type": "CAUSAL_LM", **options}
    model = peft.get_peft_model(tiny_model(family, **sizes or {}), peft.LoraConfig(**given))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def merged(folder: Path, family: str = "llama") -> nn.Module:
    """What PEFT makes of the checkpoint on the original model."""
    loaded: nn.Module = peft.PeftModel.from_pretrained(tiny_model(family), folder).merge_and_unload()
    return loaded


@cache
def tiny_phi() -> Program:
    return capture(tiny_model("phi3"), name="tiny")


def fused(folder: Path, family: str = "llama", passes: str = "") -> Program:
    program = tiny_llama() if family == "llama" else tiny_phi()
    return compile(program, f"fuse-lora{{adapter={folder}}}{passes}").program


def logits(program: Program) -> Tensor:
    return EagerSession(program).step(random_ids(12)).logits


def model_logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(random_ids(12)[None]).logits[0]
    return out


VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "attention": {"target_modules": ["q_proj", "o_proj", "down_proj"]},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "pattern": {"target_modules": r".*\.1\.mlp\.(up|down)_proj", "rank_pattern": {"up_proj": 2}},
    "rslora": {"use_rslora": True, "alpha_pattern": {"gate_proj": 3}},
    "dora": {"use_dora": True, "target_modules": ["v_proj", "up_proj"]},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))
def test_folded_weights_are_those_that_peft_merges(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = adapter(tmp_path / "a", **options)
    program, model = fused(folder), merged(folder)
    original = dict(model.named_parameters())
    changed = [name for name in program.weights if name.endswith("_lora.weight")]
    before = tiny_llama().weights
    expected = [n for n, w in original.items() if n in before and not torch.equal(w, before[n])]
    assert sorted(n.replace("_lora.weight", ".weight") for n in changed) == sorted(expected) != []
    for name in changed:
        assert torch.equal(program.weights[name], original[name.replace("_lora.weight", ".weight")])
    assert relative(logits(program), model_logits(model)) < 1e-5
    assert relative(logits(program), logits(tiny_llama())) > 1e-2


def test_sixteen_bits_are_rounded_once_as_peft_does(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    expected = dict(
        peft.PeftModel.from_pretrained(tiny_model().bfloat16(), folder).merge_and_unload().named_parameters()
    )
    weights = {name: w.bfloat16() for name, w in outlined().weights.items()}
    matrices = dict(Checkpoint.load(folder).merged(linear_layers(outlined().graph), weights))
    assert len(matrices) == 6
    assert all(torch.equal(matrix, expected[f"{path}.weight"]) for path, matrix in matrices.items())


@pytest.mark.parametrize("target", ["gate_up_proj", "qkv_proj"])
def test_adapters_of_a_fused_projection_are_cut_as_it_is(tmp_path: Path, target: str) -> None:
    folder = adapter(tmp_path / "a", "phi3", target_modules=[target, "down_proj"])
    assert relative(logits(fused(folder, "phi3")), model_logits(merged(folder, "phi3"))) < 1e-5


def test_an_adapted_head_leaves_the_embedding_that_it_shares(tmp_path: Path) -> None:
    tied: dict[str, Any] = {"tie_word_embeddings": True}
    folder = adapter(tmp_path / "a", sizes=tied, target_modules=["lm_head"])
    program = compile(capture(tiny_model(**tied), name="tied"), f"fuse-lora{{adapter={folder}}}").program
    assert {"model.embed_tokens.weight", "lm_head_lora.weight"} <= set(program.weights)
    running = peft.PeftModel.from_pretrained(tiny_model(**tied), folder)
    assert relative(logits(program), model_logits(running)) < 1e-5


def test_a_method_works_on_folded_weights_and_is_compared_with_them(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    program = fused(folder, passes=",dip{density=1}")
    for other in (program, program.reference):
        assert relative(logits(other), model_logits(merged(folder))) < 1e-5
    assert program.method.options == f"fuse-lora{{adapter={folder}}},dip{{density=1}}"
    assert {s.name for s in lower(program).sites} == {s.name for s in lower(compile(tiny_llama(), "dip").program).sites}


def record(folder: Path, **changes: Any) -> Path:
    """Make the adapter one that dipc trained for the tiny Llama."""
    recipe = {"model": "tiny", "digest": tiny_llama().info.digest}
    content = {"schema": 1, "kind": "adapter", "recipe": recipe, **changes}
    (folder / "dipc_adapter.json").write_text(json.dumps(content))
    return folder


def test_a_recovery_adapter_is_compared_with_the_model_without_it(tmp_path: Path) -> None:
    folder = record(adapter(tmp_path / "a"))
    program = fused(folder, passes=",dip,int8")
    assert relative(logits(program.reference), logits(tiny_llama())) < 0.05
    plain = fused(folder, passes=",dip{density=1}")
    assert torch.equal(logits(plain.reference), logits(outlined()))
    save(program, tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(program))
    assert torch.equal(logits(loaded.reference), logits(program.reference))


def test_a_recovery_adapter_on_top_of_another(tmp_path: Path) -> None:
    """Both are folded, and what results are compared with has the other alone, in whichever order they come."""
    other, recovery = adapter(tmp_path / "a"), record(adapter(tmp_path / "b", r=2, target_modules=MLP[1:]))
    programs = [
        compile(tiny_llama(), f"fuse-lora{{adapter={first}}},fuse-lora{{adapter={second}}},dip").program
        for first, second in ((other, recovery), (recovery, other))
    ]
    assert relative(logits(programs[0]), logits(programs[1])) < 1e-3
    for i, program in enumerate(programs):
        assert relative(logits(program.reference), logits(fused(other))) < 1e-5
        save(program, tmp_path / f"out{i}")
        assert torch.equal(logits(load(tmp_path / f"out{i}")), logits(program))


def test_a_program_without_weights_gets_the_shapes(tmp_path: Path) -> None:
    folder = record(adapter(tmp_path / "a", use_dora=True))
    config = tmp_path / "config.json"
    model: Any = tiny_model()
    config.write_text(model.config.to_json_string())
    bare = compile(str(config), f"fuse-lora{{adapter={folder}}},dip").program
    full = fused(folder, passes=",dip")
    assert {n: w.shape for n, w in bare.weights.items()} == {n: w.shape for n, w in full.weights.items()}
    assert all(w.device.type == "meta" for w in bare.weights.values())


def test_the_adapter_comes_first(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    with pytest.raises(UsageError, match=r"dip ran before.*put fuse-lora first"):
        compile(tiny_llama(), f"dip,fuse-lora{{adapter={folder}}}")
    with pytest.raises(UsageError, match="rounded or pruned for good; put fuse-lora first"):
        compile(tiny_llama(), f"int8,fuse-lora{{adapter={folder}}}")
    with pytest.raises(UsageError, match=r"write fuse-lora\{adapter=FOLDER\}"):
        FuseLora().run(outlined())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias": ({"bias": "lora_only"}, "bias=lora_only"),
    "embedding": ({"target_modules": ["embed_tokens", "up_proj"]}, "embed_tokens.*no adapter of a linear layer"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_part_of_a_weight_is_named(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    folder = adapter(tmp_path / "a", **options)
    with pytest.raises(BadFile, match=reason):
        fused(folder)


def test_other_kinds_of_adapters_are_named(tmp_path: Path) -> None:
    peft.get_peft_model(tiny_model(), peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "a")
    with pytest.raises(BadFile, match="of the kind IA3; only LORA"):
        fused(tmp_path / "a")


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_a_newer_peft_may_have_added_is_not_ignored(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    edit_config(folder, use_something_new=False)
    fused(folder)
    edit_config(folder, use_something_new=True)
    with pytest.raises(BadFile, match="use_something_new=True"):
        fused(folder)


def test_adapters_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"down_proj.lora_A.weight is \(4, 40\), which does not fit .* 32 x 48"):
        fused(adapter(tmp_path / "wide", sizes={"intermediate_size": 40}))
    with pytest.raises(BadFile, match=r"adapts model.layers.0.mlp.gate_up_proj, which is no linear layer"):
        fused(adapter(tmp_path / "phi", "phi3", target_modules=["gate_up_proj"]))
    folder = adapter(tmp_path / "a")
    with pytest.raises(BadFile, match=r"trained for wide \(12\), not for tiny"):
        fused(record(folder, recipe={"model": "wide", "digest": "12"}))
    (folder / "dipc_adapter.json").unlink()
    edit_config(folder, target_modules=["nothing"])
    with pytest.raises(BadFile, match=r"PEFT cannot load it: .*nothing"):
        fused(folder)
    edit_config(folder, target_modules=["up_proj", "down_proj"])
    with pytest.raises(BadFile, match=r"adapter_config.json: .* has .*gate_proj"):
        fused(folder)
    edit_config(folder, target_modules=[*MLP, "q_proj"])
    with pytest.raises(BadFile, match=r"adapter_config.json: .* lacks .*q_proj"):
        fused(folder)


def test_what_is_no_adapter_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such folder"):
        fused(tmp_path / "missing")
    (tmp_path / "a").mkdir()
    with pytest.raises(BadFile, match=r"no adapter_config\.json"):
        fused(tmp_path / "a")
    folder = adapter(tmp_path / "b")
    tensors = folder / "adapter_model.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[:100])
    with pytest.raises(BadFile, match="cannot be read"):
        fused(folder)
    tensors.rename(folder / "adapter_model.bin")
    with pytest.raises(BadFile, match="is a pickle"):
        fused(folder)
    tensors.write_bytes(content)
    (folder / "dipc_adapter.json").write_text("{}")
    with pytest.raises(BadFile, match="no record of an adapter"):
        fused(folder)
    record(folder, schema=2)
    with pytest.raises(BadFile, match="schema 2"):
        fused(folder)
    (folder / "dipc_adapter.json").unlink()
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(BadFile, match="must hold a JSON object"):
        fused(folder)


def test_numbers_that_are_not_finite_are_found(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = adapter(tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, file)
    with pytest.raises(BadFile, match="not finite"):
        fused(folder)
