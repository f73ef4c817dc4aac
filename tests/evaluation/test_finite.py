"""NaN and infinity are no figures: what computes them is refused, and the first layer that does is named."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dipc.api import Program, calibrate, compile, evaluate, finetune, generate, perplexity
from dipc.backends import _session
from dipc.backends.eager import EagerSession
from dipc.calibration.file import PARTS
from dipc.errors import NotFinite, UsageError
from dipc.evaluation.finite import check_logits
from dipc.evaluation.sampling import SamplingOptions
from dipc.ir.finite import first_not_finite
from dipc.quantities import perplexity_of
from dipc.tuning.divergence import kl_divergence
from kit.byte_text import CONTEXT, WORDS, byte_tokenizer
from kit.command_line import Cli
from kit.tiny_models import tiny_llama, tiny_model

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD = "lm_head.weight"


@cache
def base() -> Program:
    return tiny_llama(vocab_size=257, tie_word_embeddings=False).replace(tokenizer=byte_tokenizer())


def changed(change: Callable[[Tensor], Tensor], *names: str, passes: str = "outline-glu") -> Program:
    """The tiny model with some weights changed."""
    weights = {n: change(w) if n in names else w for n, w in base().weights.items()}
    return compile(base().replace(weights=weights), passes).program


def overflowing(passes: str = "outline-glu") -> Program:
    """Each weight is finite, and the second layer's MLP overflows."""
    return changed(lambda w: w * 1e38, UP, DOWN, passes=passes)


def steep() -> Program:
    """The losses are far beyond what exp can take."""
    return changed(lambda w: w * 1e6, HEAD)


USES: dict[str, Any] = {
    "evaluate": lambda p, _: evaluate(p, WORDS),
    "evaluate, sparse": lambda _, __: evaluate(overflowing("dip"), WORDS),
    "perplexity": lambda p, _: perplexity(EagerSession(p), WORDS),
    "generate": lambda p, _: generate(p, WORDS[:20], max_new_tokens=2),
    "sample": lambda p, _: generate(p, WORDS[:20], max_new_tokens=2, temperature=1.0),
    "finetune": lambda p, out: finetune(p, "dip", WORDS * 9, out / "x", iterations=1, rank=2),
    **{f"calibrate {part}": lambda p, _, part=part: calibrate(p, WORDS * 4, parts=(part,)) for part in PARTS},
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_layer_is_named(use: Any, tmp_path: Path) -> None:
    with pytest.raises(
        NotFinite, match=r"tiny: model\.layers\.1\.mlp is the first to compute (NaN|infinity), in float32"
    ):
        use(overflowing(), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "said"), [(UP, torch.nan, "NaN"), (DOWN, torch.inf, "infinity"), (DOWN, -torch.inf, "infinity")]
)
def test_a_weight_is_named(name: str, value: float, said: str) -> None:
    with pytest.raises(NotFinite, match=rf"tiny: {name} holds {said}: the weights are damaged"):
        evaluate(changed(lambda w: w.index_fill(0, torch.tensor([3]), value), name), WORDS)


def test_a_narrow_dtype_is_said_to_be_too_narrow(tmp_path: Path, cli: Cli) -> None:
    made: Any = tiny_model(vocab_size=257, max_position_embeddings=CONTEXT)
    with torch.no_grad():
        for projection in (made.model.layers[0].mlp.up_proj, made.model.layers[0].mlp.gate_proj):
            projection.weight *= 3e4
    made.save_pretrained(tmp_path / "wide")
    byte_tokenizer().save_pretrained(str(tmp_path / "wide"))
    text = tmp_path / "words.txt"
    text.write_text(WORDS * 4)
    said = ("wide: model.layers.0.mlp is the first to compute", "in float16", "--dtype float32")
    cli("eval", tmp_path / "wide", "--text", text, "--dtype", "float16").fails(4, *said)
    cli("run", tmp_path / "wide", "--prompt", "The city", "--dtype", "float16").fails(4, *said)
    out = tmp_path / "c"
    cli("calibrate", tmp_path / "wide", "--text", text, "--dtype", "float16", "-o", out).fails(4, *said)
    found = cli("eval", tmp_path / "wide", "--text", text, "--json", "--quiet").json()
    assert math.isfinite(found["perplexity"])


def test_masks_of_minus_infinity_are_no_fault() -> None:
    assert first_not_finite(base(), torch.arange(1, 9)) is None
    ruled_out = torch.zeros(2, 5).index_fill(1, torch.tensor([2]), -torch.inf)
    check_logits(EagerSession(base()), [1, 2], ruled_out)
    for value in (torch.nan, torch.inf):
        with pytest.raises(NotFinite):
            check_logits(EagerSession(overflowing()), [1, 2], ruled_out.index_fill(1, torch.tensor([0]), value))
    with pytest.raises(NotFinite):
        check_logits(EagerSession(overflowing()), [1, 2], torch.full((1, 5), -torch.inf))


def test_a_token_that_is_ruled_out_counts_nothing() -> None:
    log_p, log_q = (torch.log_softmax(torch.tensor([[1.0, 2.0, -torch.inf]]) * s, -1) for s in (1.0, 2.0))
    two_p, two_q = (torch.log_softmax(torch.tensor([[1.0, 2.0]]) * s, -1) for s in (1.0, 2.0))
    expected = float((two_p.exp() * (two_p - two_q)).sum())
    assert kl_divergence(log_p, log_q, log_p.exp()) == pytest.approx(expected)
    assert kl_divergence(two_p, torch.tensor([[0.0, -torch.inf]]), two_p.exp()) == math.inf
    assert math.isnan(kl_divergence(log_p * torch.nan, log_q, log_p.exp() * torch.nan))


def test_a_loss_beyond_exp_is_an_infinite_perplexity() -> None:
    assert perplexity_of(709.0 * 2, 2) == math.exp(709.0)
    assert perplexity_of(710.0, 1) == perplexity_of(math.inf, 1) == math.inf
    score = evaluate(steep(), WORDS)
    assert score.perplexity == score.dense_perplexity == math.inf
    assert math.isfinite(score.bits_per_byte) and score.kl_to_dense == 0
    assert perplexity(EagerSession(steep()), WORDS).perplexity == math.inf


def test_an_infinite_perplexity_is_written_by_its_name(tmp_path: Path) -> None:
    import dipc

    made = finetune(steep(), "dip", WORDS * 9, tmp_path / "x", iterations=1, rank=2)
    assert made.dense.perplexity == math.inf
    again = finetune(steep(), "dip", WORDS * 9, tmp_path / "x", iterations=1, rank=2)
    assert again.dense == made.dense
    for found in (dipc.to_dict(made), dipc.to_dict(evaluate(steep(), WORDS))):
        assert '"inf"' in json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("temperature", [1e-40, 1e-50, 5e-324, 1e-30])
def test_a_temperature_of_almost_nothing_is_greedy(temperature: float) -> None:
    greedy = generate(base(), WORDS[:20], max_new_tokens=12)
    for seed in range(3):
        assert generate(base(), WORDS[:20], max_new_tokens=12, temperature=temperature, seed=seed).text == greedy.text


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -1e-300, -math.inf])
def test_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(UsageError, match="it must be 0"):
        SamplingOptions(temperature=temperature)


def test_a_session_without_its_program_names_the_place() -> None:
    class Exported:
        """A session that broke, of a file."""

        identity = dataclasses.replace(EagerSession(base()).identity, backend="onnx-bodies")

    broken: _session.Session = Exported()  # type: ignore[assignment]
    with pytest.raises(NotFinite, match=r"tiny: its logits are not finite in onnx-bodies, after 3 tokens; run the"):
        check_logits(broken, [1, 2, 3], torch.full((1, 4), torch.nan))
