"""The dense model against llama.cpp on the same file and text: no further apart than its 8-bit activations explain.

llama.cpp rounds what enters a product with quantised weights to 8 bits, in blocks of 32 with a 16-bit scale (its Q8_0
and Q8_1). So it is held to the distance by which such rounding moves transformers' own model.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dipc
from dipc.backends.eager import EagerSession
from dipc.errors import MissingDependency
from dipc.frontend.gguf.model import from_gguf
from dipc.frontend.named_models import named_model
from kit.paths import SHARED

WIKITEXT = SHARED / "data" / "wikitext2" / "wiki.test.raw"
TOKENS = 128


def of_the_next(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of each token but the first: [T - 1]."""
    return logits.double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]


def rounded(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    blocks = x.unflatten(-1, (-1, 32))
    scales = (blocks.abs().amax(-1, keepdim=True) / 127).half().float().clamp(min=1e-30)
    return (((blocks / scales).round() * scales).flatten(-2),)


def by_llama_cpp(path: str, ids: list[int]) -> Tensor:
    llama = pytest.importorskip("xllamacpp", reason="llama.cpp is run through the package xllamacpp")
    params = llama.CommonParams()
    params.model.path, params.n_ctx, params.warmup, params.verbosity = path, TOKENS + 8, False, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama.Server(params)
    found = []
    for place in range(1, len(ids)):
        for most in (1_000, 49_152):  # a token that is not among the likeliest makes a long answer necessary
            asked: dict[str, Any] = {"prompt": ids[:place], "n_predict": 1, "n_probs": most, "temperature": 0.0}
            answer = server.handle_completions(asked | {"samplers": [], "cache_prompt": True})
            likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            logprobs = {entry["id"]: entry["logprob"] for entry in likely}
            if ids[place] in logprobs:
                break
        found.append(logprobs[ids[place]])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.nightly
@pytest.mark.skipif(not WIKITEXT.is_file(), reason=f"no WikiText-2 at {WIKITEXT}")
def test_the_dense_model_is_as_near_to_llama_cpp_as_its_rounding_allows() -> None:
    pytest.importorskip("gguf")
    try:
        path = named_model("smollm2")
    except MissingDependency as error:
        pytest.skip(str(error))
    assert path is not None
    program = dipc.capture("smollm2")
    tokenizer: Any = program.tokenizer
    ids = tokenizer(WIKITEXT.read_text(encoding="utf-8")[:5_000])["input_ids"][:TOKENS]
    ours = of_the_next(EagerSession(program).step(torch.tensor(ids)).logits, torch.tensor(ids))
    theirs = by_llama_cpp(str(path), ids)
    model = from_gguf(path, "smollm2", "float32").model.eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(rounded)
    with torch.no_grad():
        moved = of_the_next(model(torch.tensor(ids)[None]).logits[0], torch.tensor(ids))
    explained = float((moved - ours).abs().mean())
    assert 0 < float((theirs - ours).abs().mean()) < 1.5 * explained
    assert math.exp(float(-theirs.mean())) == pytest.approx(math.exp(float(-ours.mean())), rel=0.02)
