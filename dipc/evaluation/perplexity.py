"""Measure a model on text: perplexity, bits per byte, distance to the dense model, density, and the activity trace.

A protocol (`dipc.evaluation.protocol`) says how the text is cut into windows, which tokens are sparse and which are
scored; unless told otherwise it is the paper's. The weight cache stays warm from window to window, as on a device; the
KV cache does not. Logits are made and looked at in pieces, so that memory does not grow with a window times a
vocabulary.

Shape legend: T tokens of a window, P tokens of a piece, V vocabulary, U units of a site.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from dipc.backends import RunOptions, get_backend
from dipc.backends._session import Session
from dipc.errors import UsageError
from dipc.evaluation.finite import check_logits
from dipc.evaluation.heap import give_back
from dipc.evaluation.recorder import MaskRecorder
from dipc.evaluation.scoring import ScoringOptions
from dipc.evaluation.windows import Piece, WindowPlan, plan_windows
from dipc.ir.identity import Identity
from dipc.ir.program import Method, Program
from dipc.ir.selections import cache_aware
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.quantities import perplexity_of
from dipc.text import Text, Window
from dipc.tuning.divergence import kl_divergence

_CHUNK_LOGITS = 2**20
"""Logits are looked at in chunks that stay near the processor."""


@dataclass(frozen=True)
class OwnScore:
    """Measurements of one model by itself, with all that the figures depend on.

    Attributes:
        seq_len: tokens of a window.
        stride: tokens from one window to the next.
        prefill: tokens at the beginning of each window that were dense and not scored.
        tokens: that were scored.
        sparse_share: tokens that were sparsified, of all that were run.
        sparse_scored: scored tokens whose prediction was made by a sparsified token, of all that were scored.
        sparse_tokens: which were sparsified, in words.
        scored_tokens: which were scored, in words.
    """

    model: str
    digest: str
    method: Method
    backend: str
    text: str
    text_digest: str
    protocol: str
    seq_len: int
    stride: int
    prefill: int
    windows: int
    tokens: int
    sparse_share: float
    sparse_scored: float
    sparse_tokens: str
    scored_tokens: str
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Score(OwnScore):
    """Measurements of a program beside the dense one, on the same tokens and by the same backend."""

    dense_perplexity: float
    dense_bits_per_byte: float
    kl_to_dense: float
    density: float
    hit_rate: float | None
    cache_policy: str
    trace: Trace | None = None


def evaluate(
    program: Program,
    text: Text | str | None = None,
    *,
    windows: TextSpec = TextSpec(),
    scoring: ScoringOptions = ScoringOptions(),
    runner: RunOptions = RunOptions(),
    record: bool = False,
    dense: Session | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Measure perplexity and its kin, sparse beside dense.

    Args:
        program: with weights and a tokenizer.
        text: what to measure on; by default the sample that comes with dipc.
        windows: how much of the text, in which windows.
        scoring: which tokens are sparse and scored.
        runner: what runs both, the program and the dense one.
        record: keep the activity trace, for replay and estimates.
        dense: what runs the dense model, for many programs that are measured beside one; by default the program's own
            reference, opened for this call. It is fed a whole window per call.
        progress: called with windows done and windows in all.

    Raises:
        UsageError: a protocol that does not fit the program or the text, or nothing to predict in the text.
        BadFile: the tokenizer makes a token that the model does not have.
        NotFinite: a model computes NaN or infinity; a perplexity may be infinite all the same.
    """
    plan = plan_windows(Identity.of(program, runner.backend), text, windows, scoring)
    if record and plan.protocol.overlaps:
        raise UsageError(f"a trace has every token once, and the windows of the protocol {plan.protocol.name} overlap")
    sums, recorder, backend = _Sums(), MaskRecorder(program, keep=record), get_backend(runner.backend, "run")
    program = backend.prepare(program, runner)
    with ExitStack() as stack:
        sparse = stack.enter_context(backend.open(program, runner, record=True))
        beside = None
        if dense is None and program.dense is not None:
            alone = dataclasses.replace(runner, exported=None)
            beside = stack.enter_context(backend.open(program.dense, alone))
        _feed(plan, sparse, dense, beside, sums, recorder, progress)
        own = sums.score(plan, sparse.identity)
    return Score(
        **vars(own),
        dense_perplexity=perplexity_of(sums.dense_nll, sums.count),
        dense_bits_per_byte=sums.bits_per_byte_of(sums.dense_nll),
        kl_to_dense=sums.divergence / sums.count,
        density=recorder.density,
        hit_rate=recorder.hit_rate,
        cache_policy=", ".join(sorted({p for p, _ in cache_aware(program).values()})) or "none",
        trace=recorder.trace(plan.meta()),
    )


def _feed(
    plan: WindowPlan,
    sparse: Session,
    dense: Session | None,
    beside: Session | None,
    sums: _Sums,
    recorder: MaskRecorder,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Run every window; `dense` is fed whole windows, `beside` the same pieces as the sparse program."""
    for window in plan.each(progress):
        _feed_window(window, plan, sparse, dense, beside, sums, recorder)
        give_back()


def _feed_window(
    window: Window,
    plan: WindowPlan,
    sparse: Session,
    dense: Session | None,
    beside: Session | None,
    sums: _Sums,
    recorder: MaskRecorder,
) -> None:
    """Run one window; nothing of it stays in memory."""
    for session in (sparse, dense, beside):
        if session is not None:
            session.new_sequence()
    whole_TV = None
    for piece in plan.pieces(window):
        step = sparse.step(piece.ids, dense=piece.dense)
        if not piece.dense:
            recorder.add(step.masks)
        if dense is not None and whole_TV is None:
            whole_TV = dense.step(window.ids).logits
        expected_PV = None if whole_TV is None else whole_TV[piece.start : piece.start + len(piece.ids)]
        if beside is not None:
            expected_PV = beside.step(piece.ids).logits
        sums.add(piece, step.logits, expected_PV)
        if not sums.finite:
            check_logits(sparse, piece.until, step.logits)
            other = dense if beside is None else beside
            if other is not None and expected_PV is not None:
                check_logits(other, piece.until, expected_PV)


def perplexity(
    session: Session,
    text: Text | str | None = None,
    *,
    windows: TextSpec = TextSpec(),
    scoring: ScoringOptions = ScoringOptions(),
    progress: Callable[[int, int], None] | None = None,
) -> OwnScore:
    """Measure the perplexity of something that runs, such as an exported model without the program behind it.

    Args:
        session: what runs; it is reset first.
        text: what to measure on; by default the sample that comes with dipc.
        windows: how much of the text, in which windows.
        scoring: which tokens are sparse and scored.
        progress: called with windows done and windows in all.

    Raises:
        UsageError: a protocol that does not fit the model or the text, or nothing to predict in the text.
        BadFile: the tokenizer makes a token that the model does not have.
        NotFinite: the model computes NaN or infinity; its perplexity may be infinite all the same.
    """
    plan = plan_windows(session.identity, text, windows, scoring)
    sums = _Sums()
    session.reset()
    for window in plan.each(progress):
        session.new_sequence()
        for piece in plan.pieces(window):
            logits_PV = session.step(piece.ids, dense=piece.dense).logits
            sums.add(piece, logits_PV)
            if not sums.finite:
                check_logits(session, piece.until, logits_PV)
    return sums.score(plan, session.identity)


@dataclass
class _Sums:
    """Negative log-likelihoods and divergence in nats, over so many tokens that make so many bytes of text."""

    nll: float = 0.0
    dense_nll: float = 0.0
    divergence: float = 0.0
    count: int = 0
    sparse_count: int = 0
    size_bytes: int = 0
    run: int = 0
    sparse_run: int = 0

    def add(self, piece: Piece, logits_PV: Tensor, dense_PV: Tensor | None = None) -> None:
        """Count a piece; without logits of the dense model it is the dense model."""
        ids, ends = piece.window.ids, piece.window.ends
        tokens, end = len(piece.ids), piece.start + len(piece.ids)
        self.run += tokens
        self.sparse_run += 0 if piece.dense else tokens
        low, high = max(piece.start, piece.first_scored - 1), min(end, len(ids) - 1)
        if low >= high:
            return
        self.count += high - low
        self.sparse_count += 0 if piece.dense else high - low
        self.size_bytes += int(ends[high] - ends[low])
        rows = slice(low - piece.start, high - piece.start)
        truths = ids[low + 1 : high + 1].to(logits_PV.device)
        expected = None if dense_PV is None else dense_PV[rows]
        self._compare(logits_PV[rows], expected, truths)

    def _compare(self, guesses: Tensor, expected: Tensor | None, truths: Tensor) -> None:
        step = max(1, _CHUNK_LOGITS // guesses.shape[-1])
        for first in range(0, len(truths), step):
            part = slice(first, first + step)
            if expected is None:
                nll = dense = float(cross_entropy(guesses[part], truths[part], reduction="sum"))
            else:
                log_q, log_p = log_softmax(guesses[part], -1), log_softmax(expected[part].to(guesses.device), -1)
                right = truths[part, None]
                nll, dense = (-float(log.gather(-1, right).sum()) for log in (log_q, log_p))
                self.divergence += kl_divergence(log_p, log_q, log_p.exp())
            self.nll += nll
            self.dense_nll += dense

    @property
    def finite(self) -> bool:
        """Return whether all sums are numbers so far."""
        return math.isfinite(self.nll) and math.isfinite(self.dense_nll) and math.isfinite(self.divergence)

    def bits_per_byte_of(self, nll: float) -> float:
        """Return the bits per byte of the text."""
        return nll / math.log(2) / self.size_bytes

    def score(self, plan: WindowPlan, model: Identity) -> OwnScore:
        """The figures with what they depend on. UsageError if there are none."""
        if not self.size_bytes:
            raise UsageError(f"{plan.text.name}: the tokens to predict hold no whole character; give more text")
        protocol, dense = plan.protocol, model.method.name == "dense"
        return OwnScore(
            model=model.name,
            digest=model.digest,
            method=model.method,
            backend=model.backend,
            text=plan.text.name,
            text_digest=plan.text.digest,
            protocol=protocol.name,
            seq_len=protocol.seq_len,
            stride=protocol.stride,
            prefill=protocol.prefill,
            windows=len(plan.windows),
            tokens=self.count,
            sparse_share=0.0 if dense else self.sparse_run / self.run,
            sparse_scored=0.0 if dense else self.sparse_count / self.count,
            sparse_tokens="none" if dense else protocol.sparse_text,
            scored_tokens=protocol.scored_text,
            perplexity=perplexity_of(self.nll, self.count),
            bits_per_byte=self.bits_per_byte_of(self.nll),
        )
