"""Protocols of evaluation: how a text is cut into windows, which tokens of each are dense, and which are scored.

| name | windows | sparse tokens | scored tokens |
|---|---|---|---|
| `dip` | side by side | all | all but the first |
| `decode` | side by side | all after the first `prefill` | the sparse ones |
| `last-fraction` | side by side | the last `fraction` | all but the first |
| `teal` | of 2,560, one every 512 | the last half | the last 512 |
| `wina` | of 2,560, one every 512 | the last 99 % | the last 512 |

`dip` is that of the DIP paper (section 6.1). `teal` is what TEAL's public code does (FasterDecoding/TEAL,
`utils/eval_ppl.py`, and `SparsifyFn` in `utils/utils.py`, which notes that the paper's figures were taken so), and
`wina` what WINA's does (arXiv 2505.19427), which took both files over and changed the half to 99 %. In these two the
text begins once, not with every window. In a shorter context windows shrink, and what is scored shrinks with them.

A prediction belongs to the token that it is made of: a token is scored by the logits of the one before it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dipc.errors import UnknownName, UsageError
from dipc.evaluation.scoring import ScoringOptions
from dipc.ir.program import Method

_TEAL = {"seq_len": 2560, "parts": 5}
LAST_FRACTION = {"teal": 0.5, "wina": 0.99}
PROTOCOLS = ("dip", "decode", "last-fraction", "teal", "wina")


@dataclass(frozen=True)
class Protocol:
    """A protocol with its sizes.

    Attributes:
        name: in `PROTOCOLS`.
        seq_len: tokens of a window.
        stride: tokens from one window's beginning to the next one's; windows overlap where it is less than seq_len.
        prefill: tokens at the beginning of a window that are dense and not scored.
        fraction: share of a window, at its end, that is sparse; where there is no prefill.
    """

    name: str
    seq_len: int
    stride: int
    prefill: int = 0
    fraction: float = 1.0

    @property
    def overlaps(self) -> bool:
        """Return whether a token is in several windows."""
        return self.stride < self.seq_len

    def dense(self, tokens: int) -> int:
        """Tokens at the beginning of a window that are dense."""
        return self.prefill or tokens - int(self.fraction * tokens)

    def first_scored(self, tokens: int) -> int:
        """The first token of a window that is scored, as are all after it."""
        return tokens - self.stride if self.overlaps else max(1, self.prefill)

    @property
    def sparse_text(self) -> str:
        """Which tokens are sparse, in words."""
        if self.prefill:
            return f"all but the first {self.prefill} of each window"
        return "all" if self.fraction == 1 else f"the last {100 * self.fraction:g} % of each window"

    @property
    def scored_text(self) -> str:
        """Which tokens are scored, in words."""
        if self.overlaps:
            return f"the last {self.stride} of each window"
        return "the sparse ones" if self.prefill else "all but the first of each window"


def choose_protocol(scoring: ScoringOptions, method: Method, context: int, seq_len: int | None) -> Protocol:
    """The protocol of a name, for a method, with the options that were given.

    Args:
        scoring: the name, by default `decode` for a program of `scope=decode`, else `dip`; and its options.
        method: of the program.
        context: of the model; what windows may not exceed.
        seq_len: tokens of a window; by default the context, at most 2,048 (or the protocol's own 2,560).

    Raises:
        UsageError: an unknown name, an option of another protocol, a size out of range, or a program that can leave no
            token dense.
    """
    prefill, fraction = scoring.prefill, scoring.fraction
    name = scoring.protocol or ("decode" if method.scope == "decode" else "dip")
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    if name != "dip" and method.name != "dense" and method.scope != "decode":
        raise UsageError(f"the protocol {name} leaves tokens dense; compile {method.name} with scope=decode, which can")
    for option, given, owner in (("prefill", prefill, "decode"), ("fraction", fraction, "last-fraction")):
        if given is not None and name != owner:
            raise UsageError(f"{option} is for the protocol {owner}, not for {name}")
    seq_len = min(context, _TEAL["seq_len"] if name in LAST_FRACTION else 2048) if seq_len is None else seq_len
    if not 2 <= seq_len <= context:
        raise UsageError(f"seq_len is {seq_len}; it must be between 2 and the model's context of {context}")
    plain = Protocol(name, seq_len, seq_len)
    if name == "decode":
        return dataclasses.replace(plain, prefill=_prefill(prefill, seq_len))
    if name == "last-fraction":
        return dataclasses.replace(plain, fraction=_fraction(fraction, seq_len))
    if name in LAST_FRACTION:
        if seq_len < _TEAL["parts"]:
            raise UsageError(f"seq_len is {seq_len}; the protocol {name} needs windows of {_TEAL['parts']} or more")
        return Protocol(name, seq_len, seq_len // _TEAL["parts"], fraction=LAST_FRACTION[name])
    return plain


def _prefill(given: int | None, seq_len: int) -> int:
    prefill = seq_len // 2 if given is None else given
    if not 1 <= prefill < seq_len:
        raise UsageError(f"prefill is {prefill}; it must be between 1 and {seq_len - 1}, the window less one")
    return prefill


def _fraction(given: float | None, seq_len: int) -> float:
    if given is None:
        raise UsageError(
            "the protocol last-fraction needs a fraction, such as 0.5: the share of a window that is sparse"
        )
    if not 0 < given <= 1 or int(given * seq_len) == 0:
        raise UsageError(f"fraction is {given:g}; it must be in (0, 1] and leave a token of {seq_len} sparse")
    return given
