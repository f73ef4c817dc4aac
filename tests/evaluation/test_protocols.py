"""Protocols: which tokens of which windows are dense, sparse and scored, by a session that writes down its food."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dipc.api import evaluate, perplexity
from dipc.backends._session import Step
from dipc.errors import UsageError
from dipc.ir.identity import Identity
from dipc.ir.program import Method
from dipc.text import Text
from kit.letters import TEXT, Letters, lettered

VOCAB = 96


class Counter:
    """Predicts the next letter of the alphabet: certain of its follower, with a likelihood of one half."""

    def __init__(self, scope: str = "decode", context: int = 4096, vocab: int = VOCAB) -> None:
        method = Method("dip", 0.5, scope)
        self.identity = Identity("counter", "0", context, method, "none", Letters(), vocab)
        self.fed: list[list[tuple[int, bool]]] = []

    @property
    def position(self) -> int:
        return len(self.fed[-1])

    def reset(self) -> None:
        self.fed = []

    def new_sequence(self) -> None:
        self.fed.append([])

    def state(self, name: str) -> Tensor:
        raise KeyError(name)

    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        ids_T = torch.as_tensor(ids)
        self.fed[-1] += [(int(i), dense) for i in ids_T]
        logits_TV = torch.zeros(len(ids_T), VOCAB)
        # As likely as all others together: log(95) above them.
        logits_TV[torch.arange(len(ids_T)), (ids_T + 1) % VOCAB] = math.log(VOCAB - 1)
        return Step(logits_TV, {})


def letters(count: int) -> Text:
    return Text("letters", "".join(chr(32 + i % VOCAB) for i in range(count)))


# protocol, options, tokens of the text -> (start, end, dense head) of every window, tokens scored
CASES: list[tuple[str, dict[str, Any], int, list[tuple[int, int, int]], int]] = [
    ("dip", {"seq_len": 10}, 25, [(0, 10, 0), (10, 20, 0), (20, 25, 0)], 9 + 9 + 4),
    ("decode", {"seq_len": 10, "prefill": 4}, 25, [(0, 10, 4), (10, 20, 4), (20, 25, 4)], 6 + 6 + 1),
    ("decode", {"seq_len": 10}, 25, [(0, 10, 5), (10, 20, 5)], 5 + 5),
    ("last-fraction", {"seq_len": 10, "fraction": 0.3}, 25, [(0, 10, 7), (10, 20, 7), (20, 25, 4)], 9 + 9 + 4),
    ("last-fraction", {"seq_len": 10, "fraction": 1.0}, 20, [(0, 10, 0), (10, 20, 0)], 18),
    # 2,560 tokens every 512: the last 1,280 sparse, the last 512 scored. What fills no further window is left out.
    ("teal", {}, 3500, [(0, 2560, 1280), (512, 3072, 1280)], 1024),
    # int(0.99 * 2560) = 2534
    ("wina", {}, 3500, [(0, 2560, 26), (512, 3072, 26)], 1024),
    ("teal", {"seq_len": 25}, 37, [(0, 25, 13), (5, 30, 13), (10, 35, 13)], 15),
]


@pytest.mark.parametrize(("name", "options", "count", "expected", "scored"), CASES)
@pytest.mark.parametrize("piece", [None, 3])
def test_what_is_fed_and_what_is_scored(
    name: str, options: dict[str, Any], count: int, expected: list[tuple[int, int, int]], scored: int, piece: int | None
) -> None:
    session = Counter()
    score = perplexity(session, letters(count), protocol=name, tokens_per_call=piece, **options)
    windows = [[(t % VOCAB, t - start < head) for t in range(start, end)] for start, end, head in expected]
    assert session.fed == windows
    assert (score.protocol, score.windows, score.tokens) == (name, len(windows), scored)
    assert score.perplexity == pytest.approx(2) and score.bits_per_byte == pytest.approx(1)
    run = sum(end - start for start, end, _ in expected)
    assert score.sparse_share == pytest.approx(sum(e - s - head for s, e, head in expected) / run)


def test_predictions_by_sparse_tokens_are_counted() -> None:
    # Of ten tokens nine are scored. The first six are dense, so tokens 7 to 9 are foretold by the sparse 6 to 8.
    score = perplexity(Counter(), letters(10), protocol="last-fraction", seq_len=10, fraction=0.4)
    assert score.sparse_scored == pytest.approx(3 / 9)
    assert score.sparse_tokens == "the last 40 % of each window"
    # The last dense token of a prompt makes the first prediction.
    score = perplexity(Counter(), letters(10), protocol="decode", seq_len=10, prefill=6)
    assert score.sparse_scored == pytest.approx(3 / 4) and score.prefill == 6
    score = perplexity(Counter(), letters(3500), protocol="teal")
    assert (score.sparse_scored, score.stride, score.scored_tokens) == (1, 512, "the last 512 of each window")


@pytest.mark.smoke
def test_only_what_is_scored_counts() -> None:
    """Where the text breaks off its order, only windows that score the break see it."""
    broken = Text("broken", letters(40).text[:18] + "A" + letters(40).text[19:])
    likely = perplexity(Counter(), broken, protocol="decode", seq_len=20, prefill=19, max_tokens=40)
    assert likely.perplexity == pytest.approx(math.exp((math.log(2 * 95) + math.log(2)) / 2))  # token 19, and 39
    unseen = perplexity(Counter(), broken, protocol="teal", seq_len=40)
    assert unseen.perplexity == pytest.approx(2)


def test_the_default_is_the_paper_s_or_that_of_the_program_s_scope() -> None:
    assert perplexity(Counter("all"), letters(30)).protocol == "dip"
    assert perplexity(Counter("decode"), letters(30)).protocol == "decode"
    assert perplexity(Counter("decode"), letters(30), protocol="dip").sparse_share == 1


def test_a_short_text_is_one_window_and_says_so() -> None:
    assert perplexity(Counter(), letters(30), protocol="dip").seq_len == 30
    score = perplexity(Counter(), letters(300), protocol="teal")
    assert (score.seq_len, score.stride, score.windows, score.tokens) == (300, 60, 1, 60)


@pytest.mark.parametrize(
    ("scope", "options", "message"),
    [
        ("all", {"protocol": "teal"}, "the protocol teal leaves tokens dense; compile dip with scope=decode"),
        ("all", {"protocol": "decode"}, "the protocol decode leaves tokens dense"),
        ("decode", {"protocol": "tea"}, "no protocol named 'tea'; did you mean 'teal'"),
        ("decode", {"protocol": "dip", "prefill": 3}, "prefill is for the protocol decode, not for dip"),
        ("decode", {"protocol": "teal", "fraction": 0.5}, "fraction is for the protocol last-fraction, not for teal"),
        ("decode", {"protocol": "last-fraction"}, "needs a fraction"),
        ("decode", {"protocol": "last-fraction", "fraction": 1.5}, "fraction is 1.5; it must be in"),
        ("decode", {"protocol": "last-fraction", "fraction": 0.001}, "leave a token of 30 sparse"),
        ("decode", {"protocol": "teal", "seq_len": 4}, "needs windows of 5 or more"),
        (
            "decode",
            {"seq_len": 31},
            "letters: its 30 tokens are less than one window of 31; give more text, or seq_len=30",
        ),
    ],
)
def test_what_does_not_fit_together(scope: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        perplexity(Counter(scope), letters(30), **options)


def test_a_program_under_every_protocol() -> None:
    """Dense heads are dense: half of a window sparse is nearer to the dense model than all of it."""
    program = lettered("dip{scope=decode density=0.2}")
    options: dict[str, Any] = {"seq_len": 50}
    scores = {name: evaluate(program, TEXT, protocol=name, **options) for name in ("dip", "teal", "wina")}
    half = evaluate(program, TEXT, protocol="last-fraction", fraction=0.5, **options)
    assert 0 < half.kl_to_dense < scores["dip"].kl_to_dense
    assert scores["teal"].kl_to_dense < scores["wina"].kl_to_dense
    assert all(s.density == pytest.approx(0.2, abs=0.02) for s in (*scores.values(), half))
    with pytest.raises(UsageError, match="windows of the protocol teal overlap"):
        evaluate(program, TEXT, protocol="teal", record=True, **options)


def test_logits_of_a_large_vocabulary_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from dipc.evaluation import windows as reading

    whole = evaluate(lettered("dip-ca{density=0.5 gamma=0.2}"), TEXT, seq_len=60)
    monkeypatch.setattr(reading, "MOST_LOGITS", 7 * 96)
    session = Counter()
    sizes: list[int] = []
    step = session.step

    def counted(ids: Tensor, *, dense: bool) -> Step:
        sizes.append(len(ids))
        return step(ids, dense=dense)

    monkeypatch.setattr(session, "step", counted)
    perplexity(session, letters(30), protocol="last-fraction", fraction=0.5)
    assert sizes == [7, 7, 1, 7, 7, 1]
    pieces = evaluate(lettered("dip-ca{density=0.5 gamma=0.2}"), TEXT, seq_len=60)
    assert pieces.perplexity == pytest.approx(whole.perplexity, rel=1e-5)
    assert pieces.kl_to_dense == pytest.approx(whole.kl_to_dense, rel=1e-3)


def test_windows_that_overlap_begin_the_text_once() -> None:
    from dipc.text import tokens_of

    model = dataclasses.replace(Counter().identity, tokenizer=Letters(bos_token_id=7))
    found = tokens_of(model, letters(12))
    rows = found.overlapping(5, 3)
    assert [row.ids.tolist() for row in rows] == [[7, 0, 1, 2, 3], [2, 3, 4, 5, 6], [5, 6, 7, 8, 9]]
    assert np.array_equal(rows[0].ends, [0, 1, 2, 3, 4]) and np.array_equal(rows[1].ends, [3, 4, 5, 6, 7])
    assert [row.ids[0].item() for row in found.side_by_side(5)] == [7, 7, 7]
