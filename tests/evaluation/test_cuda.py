"""Text read and written on a GPU: the masks, the perplexity and the words are those of the CPU, in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dipc.api import Program, Score, Text, capture, compile, evaluate, generate
from kit.command_line import Cli
from kit.letters import Letters
from kit.tiny_models import tiny_model

pytestmark = pytest.mark.cuda

METHODS = ["dip", "dip-ca{gamma=0.2}", "dip-ca{scope=decode}", "gate", "int4{group=32},dip"]
DENSE = "outline-glu"
TEXT = Text("harbour", "The boats were late, so the market opened without fish; nobody minded, except the cats. " * 12)


@cache
def letters() -> Program:
    """A random Llama that reads letters, wide enough that a unit near a tie is one of thousands of bits."""
    model = tiny_model(hidden_size=64, intermediate_size=160, num_hidden_layers=3, max_position_embeddings=128)
    return capture(model, name="letters").replace(tokenizer=Letters())


@cache
def program(passes: str) -> Program:
    return compile(letters(), passes).program


@cache
def score(passes: str, device: str, tokens_per_call: int | None = None) -> Score:
    return evaluate(
        program(passes), TEXT, seq_len=100, max_tokens=400, tokens_per_call=tokens_per_call, record=True, device=device
    )


def same_bits(a: Score, b: Score) -> float:
    """The fraction of mask bits on which two traces agree."""
    assert a.trace is not None and b.trace is not None and a.trace.units == b.trace.units
    return float(np.mean([np.mean(a.trace.mask(site) == b.trace.mask(site)) for site in a.trace.units]))


@pytest.mark.parametrize("passes", [DENSE, *METHODS])
def test_perplexity_and_masks_are_those_of_the_cpu(passes: str) -> None:
    there, here = score(passes, "cuda"), score(passes, "cpu")
    assert there.perplexity == pytest.approx(here.perplexity, rel=1e-3)
    assert there.dense_perplexity == pytest.approx(here.dense_perplexity, rel=1e-3)
    assert there.density == pytest.approx(here.density, abs=1e-3)
    if passes != DENSE:
        assert same_bits(there, here) > 0.999


@pytest.mark.parametrize("passes", ["dip", "dip-ca{gamma=0.2}"])
def test_token_by_token_is_one_call(passes: str) -> None:
    stepped, whole = score(passes, "cuda", 1), score(passes, "cuda")
    assert stepped.perplexity == pytest.approx(whole.perplexity, rel=1e-3)
    assert same_bits(stepped, whole) > 0.999


@pytest.mark.parametrize("passes", [DENSE, *METHODS])
def test_it_writes(passes: str) -> None:
    there, here = (generate(program(passes), "The fox", max_new_tokens=12, device=d) for d in ("cuda", "cpu"))
    assert (there.prompt_tokens, there.new_tokens) == (here.prompt_tokens, here.new_tokens)
    # A unit near a tie may be another one, and then so may a word; without a choice of units there is none.
    if passes == DENSE:
        assert there.text == here.text


def test_the_commands_take_a_device(cli: Cli, out: Path, text: Path) -> None:
    there, here = (
        cli("eval", out, "--text", text, "--seq-len", 32, "--device", device, "--json").json()
        for device in ("cuda", "cpu")
    )
    assert there["perplexity"] == pytest.approx(here["perplexity"], rel=1e-3)
    assert cli("run", out, "--prompt", "The city", "--device", "cuda").code == 0
