"""Models in GGUF compute what the model that was written computes, and what transformers makes of the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dipc.api import capture, compile
from dipc.backends.eager import EagerSession
from dipc.errors import DipcError, UnsupportedModel
from dipc.frontend.gguf.codes import BLOCKS
from dipc.frontend.gguf.find import gguf_in
from dipc.frontend.gguf.model import from_gguf
from dipc.report.stored import stored_rows
from kit.gguf_files import gguf, gguf_tensors, write_gguf
from kit.reference import deviation_from
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_model

BYTES: dict[str, Any] = {"intermediate_size": 64, "vocab_size": 258, "tie_word_embeddings": True}


def logits(model: nn.Module, count: int = 9) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(random_ids(count)[None]).logits
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_of_floats_is_the_model_that_was_written(family: str, tied: bool, tmp_path: Path) -> None:
    options = {"head_dim": 16} if family == "qwen3" else {}
    model = tiny_model(family, tie_word_embeddings=tied, **options)
    more = {f"{family}.attention.key_length": 16} if options else {}
    source = from_gguf(write_gguf(tmp_path / "m.gguf", model, more=more), "m", "auto")
    assert torch.equal(logits(source.model), logits(model))
    assert source.stored_bits == 32 and not source.own_bits and source.tokenizer is None


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_each_storage_type_is_widened_as_transformers_widens_it(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    path = write_gguf(tmp_path / "m.gguf", tiny_model(intermediate_size=64), kind)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    source = from_gguf(path, "m", "float32")
    for name, weight in expected.named_parameters():
        assert torch.equal(source.model.get_parameter(name), weight), name
    assert torch.equal(logits(source.model), logits(expected))
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert source.stored_bits == 8 * size / block and source.own_bits["model.norm.weight"] == 32


def test_what_is_computed_in_follows_the_file(tmp_path: Path) -> None:
    for kind, dtype in (("F16", torch.float32), ("BF16", torch.bfloat16), ("Q8_0", torch.float32)):
        source = from_gguf(write_gguf(tmp_path / f"{kind}.gguf", tiny_model(intermediate_size=64), kind), "m", "auto")
        assert source.model.get_parameter("lm_head.weight").dtype == dtype
    assert (
        from_gguf(tmp_path / "F16.gguf", "m", "bfloat16").model.get_parameter("lm_head.weight").dtype == torch.bfloat16
    )


def test_a_captured_file_has_its_tokenizer_template_ends_and_width(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf", tiny_model(**BYTES), "Q8_0", tokenizer=True)
    program = capture(path)
    assert program.info.name == "small" and program.info.eos_ids == (0, 1)
    assert program.info.bits_of("model.layers.0.mlp.up_proj.weight") == 8.5
    assert program.info.bits_of("model.norm.weight") == 32
    tokenizer: Any = program.tokenizer
    assert tokenizer.decode(tokenizer("a river")["input_ids"]) == "a river"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"
    assert capture(tmp_path).info.name == "small"


def test_frequencies_are_divided_by_the_factors_of_the_file(tmp_path: Path) -> None:
    model = tiny_model()
    factors = np.array([1, 2, 4, 8], dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", model, tensors=gguf_tensors(model) | {"rope_freqs.weight": factors})
    rotary: Any = model.get_submodule("model.rotary_emb")
    rotary.inv_freq = torch.tensor([10000 ** (-2 * i / 8) / factor for i, factor in enumerate(factors)])
    assert deviation_from(model, capture(path), [random_ids(40)]) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_positions_are_stretched_as_the_metadata_say(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    if kind == "yarn":
        more["llama.rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"] = 16
    model = tiny_model(rope_parameters=scaling)
    path = write_gguf(tmp_path / "m.gguf", model, more=more)
    assert torch.equal(logits(from_gguf(path, "m", "auto").model, 40), logits(model, 40))


def test_an_unread_scaling_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_model(), more={"llama.rope.scaling.type": "longrope"})
    with pytest.raises(UnsupportedModel, match=r"m\.gguf: scales its rotary embedding \(longrope\)"):
        from_gguf(path, "m", "auto")


def test_a_split_model_is_one_whichever_part_is_given(tmp_path: Path) -> None:
    model = tiny_model()
    write_gguf(tmp_path / "m.gguf", model, split_max_tensors=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    for part in parts:
        assert torch.equal(logits(from_gguf(part, "m", "auto").model), logits(model))
    assert gguf_in(tmp_path) == parts[0]
    parts[1].unlink()
    with pytest.raises(DipcError, match=r"00002-of-00003\.gguf: is missing; the model is split into 3 files"):
        from_gguf(parts[0], "m", "auto")


@pytest.mark.parametrize(("kind", "bits"), [("Q4_1", 4), ("Q5_0", 5), ("Q8_0", 8)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_captured_file_computes_from_its_codes_what_its_floats_say(
    kind: str, bits: int, tied: bool, tmp_path: Path
) -> None:
    model = tiny_model(intermediate_size=64, tie_word_embeddings=tied)
    path = write_gguf(tmp_path / "m.gguf", model, kind)
    program, ids = capture(path), random_ids(9)
    wide = from_gguf(path, "m", "auto").model
    assert relative(EagerSession(program).step(ids).logits, logits(wide)[0]) < 1e-5
    values = {n: w for n, w in compile(program, "widen").program.weights.items() if n.endswith("weight")}
    assert values and all(torch.equal(value, wide.get_parameter(name)) for name, value in values.items())
    rows = {row.name: row for row in stored_rows(program)}
    query, block = rows["model.layers.0.self_attn.q_proj"], BLOCKS[kind]
    assert query.form.startswith(f"{bits}-bit codes in groups of 32, float16 scales")
    assert (query.checkpoint_bits, query.bits) == (block.stored_bits, block.stored_bits)
    assert ("lm_head" in rows) is not tied and rows["model.norm"].form == "float32"


def test_what_has_no_codes_is_widened_and_said_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_model(hidden_size=256, intermediate_size=256), "TQ2_0")
    (row,) = [row for row in stored_rows(capture(path)) if row.name == "model.layers.0.mlp.up_proj"]
    assert (row.form, row.checkpoint_bits, row.bits) == ("float32, widened", 2.0625, 32)
