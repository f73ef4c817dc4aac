"""The eager backend and evaluation: state carried across calls, and figures that can be computed by hand.

Shape legend: T tokens, V vocabulary, U units of a site.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from dipc.api import Program, Text, capture, compile, evaluate
from dipc.backends.eager import EagerSession
from dipc.cache.policy import get_policy
from dipc.cache.state import CacheState, update
from dipc.errors import UsageError
from dipc.ir.selections import cache_aware
from dipc.text import encode
from kit.letters import TEXT, Letters, lettered
from kit.paths import SHARED
from kit.runs import agreement, run_pieces
from kit.tiny_models import outlined, random_ids, tiny_llama

STORIES = SHARED / "models" / "tinystories656K"
STORY_TEXT = SHARED / "data" / "tinystories" / "stories.txt"
METHODS = ["dip", "dip-ca{density=0.5}", "dip-ca{policy=lru gamma=0.5 density=0.3}"]

# One pass over T tokens and T passes over one round products differently; relative to the largest logit. Measured here:
# every mask bit the same, and at most 8e-7.
TOLERANCE = 1e-5


@cache
def stories() -> Program:
    """A trained model of 656 thousand parameters, where it is at hand."""
    if not STORIES.is_dir():
        pytest.skip("shared/models/tinystories656K is not beside this checkout")
    return capture(STORIES)


# --- One call and many ---


def check_one_call_and_many(program: Program, ids: Tensor) -> None:
    logits, masks, session = run_pieces(program, ids, len(ids))
    one_by_one, seen, stepped = run_pieces(program, ids, 1)
    assert agreement(seen, masks) >= 0.999
    # A unit near the threshold may fall to the other side, and then that token differs by more than rounding.
    off_T = (one_by_one - logits).abs().amax(-1) / logits.abs().max()
    assert float(off_T.median()) <= TOLERANCE and float((off_T <= TOLERANCE).float().mean()) >= 0.98
    for port in program.carried:
        assert session.state(port.name).shape == stepped.state(port.name).shape
        if port.name.endswith("_t"):
            assert int(session.state(port.name)) == int(stepped.state(port.name)) == len(ids)
        if port.name.endswith("_cached"):
            assert float((session.state(port.name) == stepped.state(port.name)).float().mean()) >= 0.95


@pytest.mark.parametrize("passes", METHODS)
def test_one_pass_of_512_tokens_is_512_passes_of_one(passes: str) -> None:
    program = compile(tiny_llama(max_position_embeddings=512), passes).program
    check_one_call_and_many(program, random_ids(512))


@pytest.mark.parametrize("passes", METHODS[:2])
def test_one_pass_of_512_tokens_is_512_passes_of_one_in_a_trained_model(passes: str) -> None:
    if not STORY_TEXT.is_file():
        pytest.skip("shared/data/tinystories is not beside this checkout")
    ids = stories().tokenizer(STORY_TEXT.read_text()[:6000], verbose=False)["input_ids"][:512]
    check_one_call_and_many(compile(stories(), passes).program, torch.tensor(ids))


# --- The session ---


@pytest.mark.smoke
def test_recorded_masks_and_state_follow_the_cache_rule() -> None:
    """The state after a run is what the update rule makes of the masks that were recorded."""
    program = compile(tiny_llama(), "dip-ca{capacity=0.3}").program
    _, masks, session = run_pieces(program, random_ids(40), 7)
    for site, (policy, capacity) in cache_aware(program).items():
        state = CacheState.empty(masks[site].shape[1])
        for mask in masks[site]:
            state = update(state, mask, capacity, get_policy(policy))
        prefix = site.replace(".", "_")
        for name in ("cached", "freq", "last_used", "t"):
            assert torch.equal(session.state(f"{prefix}_{name}"), getattr(state, name))
        assert int(state.cached.sum()) == capacity


def test_a_new_sequence_forgets_the_text_and_keeps_the_cache() -> None:
    program, ids = compile(tiny_llama(), "dip-ca").program, random_ids(20)
    session = EagerSession(program, record=True)
    cold = session.step(ids)
    state = {p.name: session.state(p.name).clone() for p in program.carried if p.kind == "state"}
    assert session.position == 20
    session.new_sequence()
    assert session.position == 0 and session.state("past_0_key").shape[2] == 0
    assert all(torch.equal(session.state(name), value) for name, value in state.items())
    warm = session.step(ids)
    assert session.state("past_0_key").shape[2] == 20 and int(session.state("layers_0_input_t")) == 40
    assert agreement(warm.masks, cold.masks) < 1
    session.reset()
    again = session.step(ids)
    assert torch.equal(again.logits, cold.logits) and agreement(again.masks, cold.masks) == 1


def test_a_new_sequence_of_a_program_without_a_cache_starts_afresh() -> None:
    session, ids = EagerSession(compile(tiny_llama(), "dip").program), random_ids(10)
    first = session.step(ids).logits
    session.new_sequence()
    assert torch.equal(session.step(ids).logits, first)


def test_a_session_leaves_the_program_alone() -> None:
    program = compile(tiny_llama(), "dip-ca").program
    text = program.text()
    run_pieces(program, random_ids(6), 2)
    assert program.text() == text and len(program.outputs) == len(program.module(*inputs(program)))


def inputs(program: Program) -> list[Tensor]:
    from dipc.ir.verify import empty_port

    given = {"tokens": torch.tensor([[5]]), "positions": torch.tensor([[0]])}
    return [given[p.kind] if p.kind in given else empty_port(p, 0, 0) for p in program.inputs]


def test_what_a_session_refuses() -> None:
    session = EagerSession(tiny_llama())
    with pytest.raises(UsageError, match="there is no token to run"):
        session.step([])
    session.step(random_ids(60))
    with pytest.raises(UsageError, match="65 tokens are more than the model's context of 64"):
        session.step(random_ids(5))
    session.step(random_ids(4))
    assert session.position == 64
    bare = tiny_llama().replace(info=dataclasses.replace(tiny_llama().info, has_weights=False))
    with pytest.raises(UsageError, match="captured from a config alone"):
        EagerSession(bare)


# --- Evaluation ---


def nll_of(program: Program, rows: list[Tensor], first: int) -> tuple[float, int]:
    """Negative log-likelihood of tokens `first`... of every row, each row in a fresh KV cache, and their number."""
    session, total, count = EagerSession(program), 0.0, 0
    for row in rows:
        session.new_sequence()
        log_p = torch.log_softmax(session.step(row).logits, -1)
        for t in range(first, len(row)):
            total -= float(log_p[t - 1, row[t]])
            count += 1
    return total, count


@pytest.mark.parametrize("passes", ["outline-glu", "dip", "dip-ca{density=0.5}"])
@pytest.mark.parametrize("bos", [None, 1])
def test_perplexity_is_what_the_logits_say(passes: str, bos: int | None) -> None:
    program = lettered(passes, bos)
    score = evaluate(program, TEXT, seq_len=50)
    ids = torch.tensor(Letters()(TEXT.text)["input_ids"])
    lead = [] if bos is None else [bos]
    rows = [torch.tensor(lead + row.tolist()) for row in ids.split(50 - len(lead))]
    rows = [row for row in rows if len(row) > 1]
    nll, count = nll_of(program, rows, 1)
    dense, _ = nll_of(tiny_llama(), rows, 1)
    assert (score.windows, score.tokens, score.seq_len, score.prefill) == (len(rows), count, 50, 0)
    assert score.perplexity == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert score.dense_perplexity == pytest.approx(math.exp(dense / count), rel=1e-5)
    # One token is one byte.
    assert score.bits_per_byte == pytest.approx(nll / count / math.log(2), rel=1e-5)
    assert score.text == "fox" and score.text_digest == TEXT.digest and score.method == program.method
    if passes == "outline-glu":
        assert score.kl_to_dense == pytest.approx(0, abs=1e-6) and score.density == 1 and score.hit_rate is None
    else:
        assert score.kl_to_dense > 0 and score.density == pytest.approx(0.5)


@pytest.mark.smoke
def test_kl_is_from_the_dense_model_to_the_sparse() -> None:
    program = lettered("dip{density=0.3}")
    ids = torch.tensor(Letters()(TEXT.text)["input_ids"])[:40]
    p, q = (torch.log_softmax(EagerSession(m).step(ids).logits, -1)[:-1] for m in (tiny_llama(), program))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert evaluate(program, TEXT, seq_len=40, max_tokens=40).kl_to_dense == pytest.approx(expected, rel=1e-4)


def test_the_selection_is_the_same_in_calls_of_any_length() -> None:
    program = lettered("dip-ca")
    whole = evaluate(program, TEXT, seq_len=60, record=True)
    for piece in (1, 13):
        score = evaluate(program, TEXT, seq_len=60, tokens_per_call=piece, record=True)
        assert score.perplexity == pytest.approx(whole.perplexity, rel=1e-5)
        assert score.hit_rate == pytest.approx(whole.hit_rate, abs=1e-3)
        assert score.trace is not None and whole.trace is not None
        for site in whole.trace.units:
            assert float((score.trace.mask(site) == whole.trace.mask(site)).mean()) >= 0.999


def test_the_hit_rate_is_that_of_the_carried_caches() -> None:
    """Hits of every token in the cache that the session itself had before it, in bytes, over two windows."""
    program = lettered("dip-ca{gamma=0.3 capacity=0.4}")
    score = evaluate(program, TEXT, seq_len=40, max_tokens=80)
    ids = torch.tensor(Letters()(TEXT.text)["input_ids"])[:80]
    session, hits, accesses = EagerSession(program, record=True), 0.0, 0.0
    for window in ids.split(40):
        session.new_sequence()
        for token in window.split(1):
            # A column of 48 in up and in gate; a column of 32 in down.
            before = {s: session.state(f"{s.replace('.', '_')}_cached") for s in cache_aware(program)}
            for site, mask in session.step(token).masks.items():
                size = 2 * 48 if site.endswith("input") else 32
                hits += size * int((mask[0] & before[site]).sum())
                accesses += size * int(mask.sum())
    assert score.hit_rate == pytest.approx(hits / accesses, abs=2e-3)


def test_windows_do_not_overlap_and_a_lone_last_token_is_left_out() -> None:
    program = lettered("dip")
    assert len(TEXT.text) == 172
    score = evaluate(program, TEXT, seq_len=57)  # 57 + 57 + 57 + 1
    assert (score.windows, score.tokens) == (3, 3 * 56)
    score = evaluate(program, TEXT, seq_len=50, max_tokens=120)  # 50 + 50 + 20
    assert (score.windows, score.tokens) == (3, 49 + 49 + 19)
    assert evaluate(program, TEXT).seq_len == 64


def test_the_trace_has_every_scored_token() -> None:
    score = evaluate(lettered("dip"), TEXT, seq_len=57, record=True)
    assert score.trace is not None and score.trace.units["layers.0.glu"] == 48
    assert score.trace.mask("layers.0.input").shape == (3 * 57, 32)
    assert {int(n) for n in score.trace.mask("layers.0.input").sum(-1)} == {16}
    assert evaluate(lettered("dip"), TEXT, seq_len=57).trace is None


def test_with_scope_decode_the_head_of_each_window_is_dense_and_not_scored() -> None:
    program = lettered("dip-ca{scope=decode density=0.3}")
    score = evaluate(program, TEXT, seq_len=40, max_tokens=80, prefill=30, record=True)
    assert (score.prefill, score.windows, score.tokens) == (30, 2, 20)
    ids = torch.tensor(Letters()(TEXT.text)["input_ids"])[:80]
    session, nll = EagerSession(program), 0.0
    for window in ids.split(40):
        session.new_sequence()
        logits = torch.cat([session.step(window[:30], dense=True).logits, session.step(window[30:]).logits])
        nll += float(torch.nn.functional.cross_entropy(logits[29:-1], window[30:], reduction="sum"))
    assert score.perplexity == pytest.approx(math.exp(nll / 20), rel=1e-5)
    assert score.trace is not None and score.trace.mask("layers.0.glu").shape == (20, 48)
    assert score.density == pytest.approx(0.3, abs=0.02)
    assert evaluate(program, TEXT, seq_len=40).prefill == 20


@pytest.mark.parametrize(
    ("passes", "options", "message"),
    [
        ("dip", {"seq_len": 65}, "seq_len is 65; it must be between 2 and the model's context of 64"),
        ("dip", {"seq_len": 1}, "seq_len is 1"),
        ("dip", {"max_tokens": 1}, "max_tokens is 1; it must be at least 2"),
        ("dip", {"prefill": 5}, "prefill is for the protocol decode, not for dip"),
        ("dip{scope=decode}", {"seq_len": 10, "prefill": 10}, "prefill is 10; it must be between 1 and 9"),
        ("dip", {"seq_len": 60, "max_tokens": 20}, "its 20 tokens are less than one window of 60; give more"),
    ],
)
def test_what_evaluation_refuses(passes: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(lettered(passes), TEXT, **options)


def test_evaluation_needs_a_tokenizer_and_text() -> None:
    with pytest.raises(UsageError, match="came without a tokenizer"):
        evaluate(outlined(), TEXT)
    with pytest.raises(UsageError, match="leave nothing to predict"):
        evaluate(lettered("dip"), "a")


def test_perplexity_grows_as_density_falls() -> None:
    if not STORY_TEXT.is_file():
        pytest.skip("shared/data/tinystories is not beside this checkout")
    text = Text("stories", STORY_TEXT.read_text()[:20000])
    for method, densities in (("dip", (1.0, 0.9, 0.7, 0.5, 0.3)), ("dip-ca", (1.0, 0.6, 0.3))):
        scores = [
            evaluate(compile(stories(), f"{method}{{density={density}}}").program, text, seq_len=256, max_tokens=1536)
            for density in densities
        ]
        perplexities = [s.perplexity for s in scores]
        assert perplexities == sorted(perplexities) and perplexities[-1] > 1.1 * perplexities[0]
        assert perplexities[0] == pytest.approx(scores[0].dense_perplexity, rel=1e-5)
        assert [s.kl_to_dense for s in scores] == sorted(s.kl_to_dense for s in scores)


@pytest.mark.smoke
def test_generation_is_greedy_decoding_with_the_carried_state() -> None:
    """Against a loop over sessions that see the whole text anew for every token (DIP has no state)."""
    from dipc.api import generate

    program = lettered("dip")
    got = generate(program, "The fox", max_new_tokens=6)
    ids = Letters()("The fox")["input_ids"]
    for _ in range(6):
        ids.append(int(EagerSession(program).step(ids).logits[-1].argmax()))
    assert got.text == Letters().decode(ids[7:]) and (got.prompt_tokens, got.new_tokens) == (7, 6)
    assert got.method == program.method
    with pytest.raises(UsageError, match="70 tokens, and the model's context is 64"):
        generate(program, "x" * 70)


def test_a_beginning_has_the_tokens_that_it_has_in_the_whole_text() -> None:
    tokenizer = stories().tokenizer
    text = "Once upon a time, in a wood\n\nfar away, lived 12 hares. " * 200
    ids, ends = encode(tokenizer, text, None)
    for count in (2, 7, 300, len(ids) - 1, len(ids) + 5):
        some, until = encode(tokenizer, text, count)
        assert torch.equal(some, ids[:count]) and (until == ends[:count]).all()
    unbroken = "a" * 5000
    assert torch.equal(encode(tokenizer, unbroken, 40)[0], encode(tokenizer, unbroken, None)[0][:40])
