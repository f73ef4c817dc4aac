"""How a text becomes tokens, and windows of them.

Shape legend: T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dipc.errors import BadFile, UsageError
from dipc.text.reading import Text, check_characters

Ints = npt.NDArray[np.int64]


class Tokenized(Protocol):
    """The reader of a text: a model's name for messages, its context and vocabulary in tokens, and its tokenizer."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""

    @property
    def vocab(self) -> int:
        """Tokens that the model knows, 0 where that is not known."""

    @property
    def tokenizer(self) -> Any:
        """The one of transformers that came with the model; None without one."""


@dataclass(frozen=True)
class Window:
    """Token ids [T], and the byte of the text at which each ends [T]."""

    ids: Tensor
    ends: Ints


@dataclass(frozen=True)
class Tokens:
    """A text as tokens: their ids [T], the byte at which each ends [T], and the tokens that begin a sequence."""

    name: str
    ids: Tensor
    ends: Ints
    lead: Tensor

    @property
    def room(self) -> int:
        """Tokens that one window of the whole text would have."""
        return len(self.lead) + len(self.ids)

    def side_by_side(self, seq_len: int, head: int = 0) -> list[Window]:
        """Rows of at most `seq_len` tokens, each with the tokens that begin a sequence.

        Rows of no more than `head` tokens, which would leave nothing to score, are left out.
        """
        step, rows = seq_len - len(self.lead), []
        for start in range(0, len(self.ids), step):
            row = torch.cat([self.lead, self.ids[start : start + step]])
            begin = self.ends[start - 1] if start else 0
            ends = np.concatenate([np.full(len(self.lead), begin), self.ends[start : start + step]])
            if len(row) > max(head, 1):
                rows.append(Window(row, ends))
        return rows

    def overlapping(self, seq_len: int, stride: int) -> list[Window]:
        """Rows of exactly `seq_len` tokens, one every `stride`; only the first begins a sequence."""
        ids, ends = torch.cat([self.lead, self.ids]), np.concatenate([np.zeros(len(self.lead), np.int64), self.ends])
        starts = range(0, len(ids) - seq_len + 1, stride)
        return [Window(ids[s : s + seq_len], ends[s : s + seq_len]) for s in starts]


def tokens_of(model: Tokenized, text: Text, max_tokens: int | None = None) -> Tokens:
    """The text as the model's tokenizer has it.

    Raises:
        UsageError: no tokenizer, or nothing to predict in the text.
        BadFile: the tokenizer makes a token that the model does not have.
    """
    tokenizer = tokenizer_of(model)
    if max_tokens is not None and max_tokens < 2:
        raise UsageError(f"max_tokens is {max_tokens}; it must be at least 2")
    ids_T, ends_T = encode(tokenizer, text.text, max_tokens)
    lead = [t for t in tokenizer("a", verbose=False)["input_ids"][:1] if t == tokenizer.bos_token_id]
    check_vocabulary(model, [*lead, int(ids_T.max())] if len(ids_T) else lead)
    found = Tokens(text.name, ids_T, ends_T, torch.tensor(lead, dtype=torch.long))
    if found.room < 2:
        raise UsageError(f"{text.name}: {len(ids_T)} tokens leave nothing to predict; give more text")
    return found


def windows(model: Tokenized, text: Text, seq_len: int, max_tokens: int | None, head: int) -> list[Window]:
    """Rows of at most `seq_len` tokens.

    Where the tokenizer starts a text with a token of its own, so does each row. Rows of no more than `head` tokens,
    which would leave nothing to score, are left out.

    Raises:
        UsageError: no tokenizer, a window longer than the context, or nothing to predict in the text.
        BadFile: the tokenizer makes a token that the model does not have.
    """
    tokenizer_of(model)
    if not 2 <= seq_len <= model.context:
        raise UsageError(f"seq_len is {seq_len}; it must be between 2 and the model's context of {model.context}")
    found = tokens_of(model, text, max_tokens)
    rows = found.side_by_side(seq_len, head)
    if not rows:
        count = len(found.ids)
        raise UsageError(f"{text.name}: {count} tokens leave nothing to predict; give more text or a smaller seq_len")
    return rows


@lru_cache(maxsize=2)
def encode(tokenizer: Any, text: str, max_tokens: int | None) -> tuple[Tensor, Ints]:
    """Token ids [T], and the byte of the UTF-8 text at which each ends; not to be changed: the next call gets them."""
    fast = getattr(tokenizer, "is_fast", False)
    options = {"add_special_tokens": False, "verbose": False, **({"return_offsets_mapping": True} if fast else {})}
    # Of a long text only as much as is asked for is tokenised, and some more: its last word may be cut in two.
    beginning = text if max_tokens is None else text[: 8 * max_tokens + 256]
    encoded = tokenizer(beginning, **options)
    while max_tokens is not None and len(encoded["input_ids"]) < max_tokens + 16 and len(beginning) < len(text):
        beginning = text[: 2 * len(beginning)]
        encoded = tokenizer(beginning, **options)
    text, ids = beginning, encoded["input_ids"][:max_tokens]
    if fast:
        characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (characters >= 0x80).astype(np.int64) + (characters >= 0x800) + (characters >= 0x10000)
        until = np.concatenate([[0], np.cumsum(widths)])
        ends = until[np.array([end for _, end in encoded["offset_mapping"][:max_tokens]], dtype=np.int64)]
    else:
        # No offsets to be had: the pieces' own lengths, scaled to the text's.
        ends = np.cumsum([len(tokenizer.decode([token]).encode()) for token in encoded["input_ids"]])
        ends = (ends * len(text.encode()) / max(1, ends[-1] if len(ends) else 1))[:max_tokens]
    return torch.tensor(ids, dtype=torch.long), ends.astype(np.int64)


def token_ids(model: Tokenized, text: str, where: str, **options: Any) -> list[int]:
    """Return a short text's token ids, with those that the tokenizer adds; options are for the tokenizer.

    Args:
        model: what is to read them.
        text: such as a prompt.
        where: the text's name for messages.
        options: such as `add_special_tokens`.

    Raises:
        UsageError: no tokenizer, or a character that is none.
        BadFile: the tokenizer makes a token that the model does not have.
    """
    check_characters(text, where)
    ids: list[int] = tokenizer_of(model)(text, verbose=False, **options)["input_ids"]
    check_vocabulary(model, ids)
    return ids


def check_vocabulary(model: Tokenized, ids: Sequence[int]) -> None:
    """BadFile where a token is beyond the model's vocabulary; a vocabulary larger than the tokenizer's is fine."""
    most = max(ids, default=0)
    if model.vocab and most >= model.vocab:
        raise BadFile(
            f"{model.name}: its tokenizer makes token {most} of the text, and the model knows {model.vocab} tokens "
            f"(0 to {model.vocab - 1}); put the tokenizer beside it that it was trained with"
        )


def tokenizer_of(model: Tokenized) -> Any:
    """The model's tokenizer. UsageError if it came without one."""
    if model.tokenizer is None:
        raise UsageError(f"{model.name} came without a tokenizer; it can be inspected and estimated, not run on text")
    return model.tokenizer
