"""The embedded model, as a user first meets it: it loads, it is what it says, and the methods behave on it."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import dipc
from dipc.ir.program import Program

torch.set_num_threads(1)
TOKENS = 1024


@cache
def demo() -> Program:
    return dipc.capture("demo")


@cache
def estimated(passes: str) -> dipc.Estimate:
    """In closed loop on the sample text, with half of the model in DRAM."""
    return dipc.estimate(dipc.compile(demo(), passes).program, "a18", dram="50%", context=256, max_tokens=TOKENS)


def test_it_is_a_small_swiglu_model_with_grouped_queries() -> None:
    assert 5e6 <= demo().parameter_count <= 8e6 and demo().info.weight_bits == 16
    (key,) = {p.type.shape for p in demo().inputs if p.name.endswith("_key")}
    assert key[1] == 2  # two KV heads for eight query heads
    program = dipc.compile(demo(), "outline-glu").program
    assert len(program.mlps) == program.info.layers == 5


def test_it_predicts_its_sample_text() -> None:
    score = dipc.evaluate(dipc.compile(demo(), "outline-glu").program, seq_len=256, max_tokens=TOKENS)
    # Uniform guessing over its vocabulary of 3,072 tokens would be 3,072.
    assert score.perplexity < 80 and score.bits_per_byte < 2.2


def test_density_one_is_the_dense_model() -> None:
    for passes in ("dip{density=1}", "dip-ca{density=1}"):
        score = dipc.evaluate(dipc.compile(demo(), passes, check_numerics=True).program, seq_len=256, max_tokens=TOKENS)
        assert score.perplexity == pytest.approx(score.dense_perplexity, rel=1e-5)
        assert score.kl_to_dense == pytest.approx(0, abs=1e-6)


def test_perplexity_grows_as_density_falls() -> None:
    perplexities = []
    for density in (0.9, 0.7, 0.5, 0.3):
        score = estimated(f"dip{{density={density}}}").score
        assert score is not None
        perplexities.append(score.perplexity)
    assert perplexities == sorted(perplexities)


def test_the_cache_aware_mask_hits_more_and_is_faster_at_equal_density() -> None:
    plain, aware = estimated("dip{density=0.5}"), estimated("dip-ca{density=0.5 gamma=0.2}")
    assert plain.sparse is not None and aware.sparse is not None
    assert aware.sparse.hit_rate > 1.2 * plain.sparse.hit_rate
    assert aware.sparse.throughput > 1.1 * plain.sparse.throughput > 1.5 * plain.dense.throughput


def test_it_writes() -> None:
    written = dipc.generate(dipc.compile(demo(), "dip").program, "The city council", max_new_tokens=12)
    assert written.new_tokens == 12 and written.text.strip()
