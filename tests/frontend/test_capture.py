"""Capture: from a module, a folder and a bare config; ports, weights, digests, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dipc.api import capture, compile
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile, DipcError, UnsupportedModel, UsageError
from dipc.memory.lowering import lower
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_llama, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float16 without a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "little"
    tiny_model().half().save_pretrained(path)  # type: ignore[operator]
    return path


@pytest.mark.smoke
def test_ports_are_tokens_positions_and_the_kv_cache() -> None:
    program = tiny_llama()
    assert [(p.name, p.kind, str(p.type)) for p in program.inputs] == [
        ("input_ids", "tokens", "int64[1, seq]"),
        ("position_ids", "positions", "int64[1, seq]"),
        *((f"past_{layer}_{what}", "kv", "float32[1, 2, past, 8]") for layer in range(2) for what in ("key", "value")),
    ]
    assert program.outputs == ("logits", "past_0_key", "past_0_value", "past_1_key", "past_1_value")
    assert {n.op for n in program.graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}


@pytest.mark.smoke
def test_what_is_known_of_the_model() -> None:
    info = tiny_llama().info
    assert (info.name, info.family, info.layers, info.d_model, info.vocab) == ("tiny", "llama", 2, 32, 96)
    assert (info.context, info.weight_bits, info.has_weights) == (64, 32.0, True)


def test_weights_keep_their_names_and_are_shared_not_copied() -> None:
    model = tiny_model()
    program = capture(model)
    assert program.info.name == "LlamaForCausalLM" and program.info.digest == tiny_llama().info.digest
    named = dict(model.named_parameters())
    kept = {name: w for name, w in program.weights.items() if not name.startswith("constant.")}
    assert set(kept) == set(named)
    assert all(w.data_ptr() == named[name].data_ptr() for name, w in kept.items())
    assert program.parameter_count == sum(p.numel() for p in named.values())
    assert all(p.device.type == "cpu" and p.requires_grad for p in named.values())


def test_a_tied_embedding_is_one_weight() -> None:
    model = tiny_model(tie_word_embeddings=True)
    program, ids = capture(model), random_ids(7)
    assert "lm_head.weight" not in program.weights and "model.embed_tokens.weight" in program.weights
    assert program.parameter_count == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert relative(EagerSession(program).step(ids).logits, model(ids[None]).logits[0]) <= 1e-5


def test_a_digest_says_which_weights_they_are() -> None:
    other = capture(tiny_model(seed=1), name="tiny")
    assert other.info.digest != tiny_llama().info.digest and other.text() == tiny_llama().text()


def test_a_folder_is_opened_with_its_stored_width(folder: Path) -> None:
    program = capture(folder)
    assert (program.info.name, program.info.weight_bits, program.tokenizer) == ("little", 16.0, None)
    # float16 is widened to compute in; the numbers are the stored ones.
    assert program.weights["lm_head.weight"].dtype == torch.float32
    assert torch.equal(program.weights["lm_head.weight"], tiny_model().get_parameter("lm_head.weight").half().float())


def test_a_program_in_bfloat16_runs(folder: Path) -> None:
    program = compile(folder, "dip-ca", dtype="bfloat16", name="other").program
    assert program.info.name == "other"
    assert program.weights["lm_head.weight"].dtype == torch.bfloat16
    session = EagerSession(program)
    logits = torch.cat([session.step(part).logits for part in random_ids(12).split(5)])
    assert logits.dtype == torch.float32 and bool(logits.isfinite().all())


def test_a_bare_config_gives_the_same_graph_without_weights(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "little.json"
    config.write_text((folder / "config.json").read_text())
    bare, full = (compile(path, "dip{scope=decode}").program for path in (config, folder))
    assert bare.info.name == "little" and not bare.info.has_weights and bare.info.weight_bits == 16.0
    assert bare.text() == full.text()
    assert lower(bare) == lower(full)
    assert all(w.device.type == "meta" for w in bare.weights.values())
    with pytest.raises(UsageError, match="captured from a config alone: it has no weights"):
        EagerSession(bare)


def refused(model: Any, **options: Any) -> DipcError:
    with pytest.raises(DipcError) as caught:
        capture(model, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    error = refused("dmeo")
    assert isinstance(error, UsageError) and str(error).startswith("no model 'dmeo': not a folder")
    assert isinstance(refused(tmp_path / "absent"), UsageError)
    error = refused(tmp_path)
    assert isinstance(error, BadFile) and "neither a config.json nor a GGUF file" in str(error)


def test_an_unknown_dtype() -> None:
    error = refused("demo", dtype="float8")
    assert isinstance(error, UsageError) and "'float8' is not one of auto, float32" in str(error)


def test_a_module_that_is_no_transformers_model() -> None:
    error = refused(torch.nn.Linear(2, 2))
    assert isinstance(error, UnsupportedModel) and "Linear has no transformers config" in str(error)


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"model_type": "no-such-family"}'])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert isinstance(refused(path), BadFile)
    assert isinstance(refused(tmp_path), BadFile)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        {"model_type": "t5"},
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
    ],
)
def test_a_config_of_no_causal_language_model(tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    error = refused(path)
    assert isinstance(error, UnsupportedModel) and "no decoder-only language model" in str(error)


def test_weights_that_are_missing_or_cut_short(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert isinstance(refused(tmp_path), BadFile)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    assert isinstance(refused(tmp_path), BadFile)


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    error = refused(tmp_path)
    assert isinstance(error, UsageError) and "add --trust-remote-code to run it" in str(error)
    error = refused(tmp_path / "config.json", trust_remote_code=True)
    assert isinstance(error, UnsupportedModel) and "from a config alone it is never run" in str(error)
    assert not ran.exists()
