"""How a text is fed to a model: windows by a protocol, each in calls of so many tokens.

Shape legend: T tokens of a window, P tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from dipc.errors import UsageError
from dipc.evaluation.protocol import Protocol, choose_protocol
from dipc.evaluation.scoring import ScoringOptions
from dipc.ir.identity import Identity
from dipc.options import TextSpec
from dipc.text import Text, Window, as_text, sample_text, tokens_of

MOST_LOGITS = 2**26
"""A window is fed in pieces of at most so many logits: 256 MiB, or 512 tokens of a vocabulary of 128 thousand."""


@dataclass(frozen=True)
class Piece:
    """Tokens [P] of a window that are fed in one call, from its token `start` on, all dense or all sparse.

    Of the window's tokens those from `first_scored` on are scored.
    """

    window: Window
    start: int
    ids: Tensor
    dense: bool
    first_scored: int

    @property
    def until(self) -> Tensor:
        """The window's tokens up to this piece's last."""
        return self.window.ids[: self.start + len(self.ids)]


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a text that are fed, and how."""

    text: Text
    protocol: Protocol
    windows: list[Window]
    most: int
    """Tokens of a call."""

    def each(self, progress: Callable[[int, int], None] | None) -> Iterator[Window]:
        """Every window, saying how many are done."""
        for done, window in enumerate(self.windows, 1):
            yield window
            if progress is not None:
                progress(done, len(self.windows))

    def pieces(self, window: Window) -> Iterator[Piece]:
        """The dense tokens of a window and then the sparse ones, in calls of at most `most`."""
        head, start = self.protocol.dense(len(window.ids)), 0
        first = self.protocol.first_scored(len(window.ids))
        for part, dense in ((window.ids[:head], True), (window.ids[head:], False)):
            for ids in part.split(self.most) if len(part) else ():
                yield Piece(window, start, ids, dense, first)
                start += len(ids)

    def meta(self) -> dict[str, str | int | float]:
        """The part of a trace's header on the text and on how it was read."""
        text, protocol = self.text, self.protocol
        about: dict[str, str | int | float] = {"text": text.name, "text_digest": text.digest}
        return about | {"protocol": protocol.name, "prefill": protocol.dense(protocol.seq_len)}


def plan_windows(
    model: Identity, text: Text | str | None, windows: TextSpec = TextSpec(), scoring: ScoringOptions = ScoringOptions()
) -> WindowPlan:
    """Return how a model is fed a text; arguments as of `dipc.evaluation.perplexity.evaluate`.

    Raises:
        UsageError: a protocol that does not fit the model or the text, or nothing to predict in the text.
    """
    seq_len, max_tokens, tokens_per_call = windows.seq_len, windows.max_tokens, scoring.tokens_per_call
    text = as_text(text) or sample_text()
    if tokens_per_call is not None and tokens_per_call < 1:
        raise UsageError(f"tokens_per_call is {tokens_per_call}; it must be at least 1")
    context = model.context
    chosen = choose_protocol(scoring, model.method, context, seq_len)
    found = tokens_of(model, text, max_tokens)
    if found.room < chosen.seq_len:
        if seq_len is not None:
            raise UsageError(
                f"{text.name}: its {found.room} tokens are less than one window of {seq_len}; give more text, or "
                f"seq_len={found.room}"
            )
        chosen = choose_protocol(scoring, model.method, context, found.room)
    if chosen.overlaps:
        rows = found.overlapping(chosen.seq_len, chosen.stride)
    else:
        rows = found.side_by_side(chosen.seq_len, chosen.prefill)
    most = max(1, MOST_LOGITS // model.vocab) if model.vocab else chosen.seq_len
    return WindowPlan(text, chosen, rows, tokens_per_call or most)
