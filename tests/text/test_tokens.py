"""Text becomes tokens in one place, which knows what the model knows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dipc.api import Program, calibrate, evaluate, finetune, generate
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile, UsageError
from dipc.ir.identity import Identity
from dipc.text import Text, encode, token_ids, tokens_of
from kit.byte_text import WORDS, byte_tokenizer
from kit.letters import TEXT, Letters, lettered
from kit.tiny_models import tiny_llama

NORMALIZERS = {
    "none": None,
    "small letters": normalizers.Lowercase(),
    "composed": normalizers.NFKC(),
    "no accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "no spaces around": normalizers.Strip(),
    "a mark before": normalizers.Prepend("_"),
    "spaces as one": normalizers.Replace("  ", " "),
}


def short(vocab: int) -> Program:
    """A model that knows fewer tokens than its tokenizer makes."""
    info = dataclasses.replace(tiny_llama(vocab_size=vocab).info, name="short")
    return tiny_llama(vocab_size=vocab).replace(info=info, tokenizer=byte_tokenizer())


USES: dict[str, Any] = {
    "evaluate": lambda p, _: evaluate(p, WORDS),
    "generate": lambda p, _: generate(p, WORDS[:20], max_new_tokens=2),
    "calibrate": lambda p, _: calibrate(p, WORDS * 4, parts=("thresholds",)),
    "finetune": lambda p, out: finetune(p, "dip", WORDS * 9, out / "x", iterations=1, rank=2),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_token_that_the_model_does_not_have_is_said(use: Any, tmp_path: Any) -> None:
    with pytest.raises(
        BadFile, match=r"short: its tokenizer makes token \d+ of the text, and the model knows 40 token"
    ):
        use(short(40), tmp_path)


def test_a_larger_vocabulary_than_the_tokenizer_s_is_fine() -> None:
    program = short(300)
    assert evaluate(program, WORDS).perplexity < 1000
    made = generate(program, WORDS[:20], max_new_tokens=30, temperature=50.0)
    assert made.new_tokens == 30


def test_the_vocabulary_is_that_of_what_runs() -> None:
    program = short(300)
    assert Identity.of(program, "eager").vocab == 300
    assert token_ids(Identity.of(program, "eager"), "a", "it") == byte_tokenizer()("a")["input_ids"]
    assert torch.equal(
        tokens_of(EagerSession(program).identity, Text("words", WORDS)).ids, encode(byte_tokenizer(), WORDS, None)[0]
    )


def test_a_beginning_beyond_the_vocabulary_is_said() -> None:
    program = dataclasses.replace(tiny_llama(), tokenizer=Letters(bos_token_id=96))
    with pytest.raises(BadFile, match="token 96 of the text, and the model knows 96 tokens"):
        evaluate(program, TEXT)
    # An end that is never made does no harm.
    after = lettered("dip")
    after.tokenizer.eos_token_id = 1000
    assert generate(after, "The", max_new_tokens=2).new_tokens == 2


def test_half_a_character_in_a_prompt() -> None:
    with pytest.raises(UsageError, match=r"the prompt: character 1 is no character"):
        generate(lettered("dip"), "a\udcff")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NORMALIZERS)), st.text(st.sampled_from("aB éßﬁÅ猫\U0001f408\n\u0301"), min_size=1))
def test_tokens_end_within_the_text_whatever_the_tokenizer_makes_of_it(kind: str, text: str) -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if NORMALIZERS[kind] is not None:
        inner.normalizer = NORMALIZERS[kind]
    ids, ends = encode(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"), text, None)
    assert len(ids) == len(ends)
    assert (np.diff(ends, prepend=0) >= 0).all()
    assert not len(ends) or ends[-1] <= len(text.encode())
    bounds = np.cumsum([0, *(len(c.encode()) for c in text)])
    assert set(ends.tolist()) <= set(bounds.tolist())
    if kind in ("none", "small letters") and len(ends):
        assert ends[-1] == len(text.encode())
