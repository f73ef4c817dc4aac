"""Measuring a model on text: perplexity, bits per byte, distance to the dense model, density, and the activity trace.

The text is one row of tokens, cut into windows that do not overlap (the paper's protocol with its window of 2,048). The
weight cache stays warm from window to window, as on a device; the KV cache does not.

Shape legend: T tokens of a window, V vocabulary, U units of a site.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from dipc.backends.session import Identity, Session
from dipc.cache.policy import get_policy
from dipc.cache.replay import replay
from dipc.errors import UsageError
from dipc.lower import cache_aware, capacities_text, lower
from dipc.program import Method, Program
from dipc.running import Backend, Kernels, open_session
from dipc.text import Text, Window, sample_text, windows
from dipc.trace import Trace


@dataclass(frozen=True)
class OwnScore:
    """What was measured of one model by itself, with all that the figures depend on."""

    model: str
    digest: str
    method: Method
    backend: str
    text: str
    text_digest: str
    seq_len: int
    prefill: int
    windows: int
    tokens: int
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Score(OwnScore):
    """What was measured of a program beside the dense one, on the same tokens and by the same backend."""

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
    seq_len: int | None = None,
    max_tokens: int | None = None,
    prefill: int | None = None,
    tokens_per_call: int | None = None,
    record: bool = False,
    backend: Backend = "eager",
    kernels: Kernels = "auto",
    exported: Path | None = None,
    dense: Session | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Perplexity and its kin, sparse beside dense.

    Args:
        program: with weights and a tokenizer.
        text: what to measure on; by default the sample that comes with dipc.
        seq_len: tokens of a window; by default the model's context, at most 2,048.
        max_tokens: use only so many tokens from the start of the text.
        prefill: with `scope=decode`, tokens of each window that are left dense and not scored; by default half of it.
        tokens_per_call: feed a window in pieces; by default at once. The selection is the same either way.
        record: keep the activity trace, for replay and estimates.
        backend: what runs both, the program and the dense one: `eager` or `onnx`.
        kernels: with `onnx`: dipc's kernels where they can be had ("auto"), demanded (True) or left out (False).
        exported: with `onnx`: the program's own export; by default made anew and thrown away, as the dense one is.
        dense: what runs the dense model, for many programs that are measured beside one; by default the program's own
            reference, opened for this call.
        progress: called with windows done and windows in all.

    Raises:
        UsageError: a window longer than the context, or nothing to predict in the text.
    """
    plan = _plan(Identity.of(program, backend), text, seq_len, max_tokens, prefill, tokens_per_call)
    sums, dense_sums, divergence = _Sums(), _Sums(), 0.0
    masks: dict[str, list[Any]] = {}
    priced = [site.name for site in lower(program).sites]
    with ExitStack() as stack:
        sparse = stack.enter_context(open_session(program, backend, kernels=kernels, exported=exported, record=True))
        if dense is None and program.dense is not None:
            dense = stack.enter_context(open_session(program.dense, backend, kernels=kernels))
        for row, logits_TV, seen in plan.run(sparse, progress):
            dense_TV = logits_TV
            if dense is not None:
                dense.new_sequence()
                dense_TV = plan.feed(dense, row.ids)[0]
            guesses, expected = sums.add(plan, row, logits_TV), dense_sums.add(plan, row, dense_TV)
            log_p, log_q = log_softmax(expected, -1), log_softmax(guesses, -1)
            divergence += float((log_p.exp() * (log_p - log_q)).sum())
            for site in (s for s in priced if s in seen):
                masks.setdefault(site, []).append(np.packbits(seen[site][plan.head :].numpy(), axis=-1))
        own = sums.score(plan, sparse.identity)
    trace = _trace(program, masks, plan.text, plan.head)
    return Score(
        **vars(own),
        dense_perplexity=dense_sums.perplexity,
        dense_bits_per_byte=dense_sums.bits_per_byte,
        kl_to_dense=divergence / sums.count,
        density=measured_density(program, trace),
        hit_rate=_hit_rate(program, trace),
        cache_policy=", ".join(sorted({p for p, _ in cache_aware(program).values()})) or "none",
        trace=trace if record else None,
    )


def perplexity(
    session: Session,
    text: Text | str | None = None,
    *,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    prefill: int | None = None,
    tokens_per_call: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OwnScore:
    """Perplexity of something that runs, such as an exported model without the program that it was made from.

    Args:
        session: what runs; it is reset first.
        text: what to measure on, and the other arguments, as for `evaluate`.
        seq_len: see `evaluate`.
        max_tokens: see `evaluate`.
        prefill: see `evaluate`.
        tokens_per_call: see `evaluate`.
        progress: see `evaluate`.

    Raises:
        UsageError: a window longer than the context, or nothing to predict in the text.
    """
    plan, sums = _plan(session.identity, text, seq_len, max_tokens, prefill, tokens_per_call), _Sums()
    session.reset()
    for row, logits_TV, _ in plan.run(session, progress):
        sums.add(plan, row, logits_TV)
    return sums.score(plan, session.identity)


@dataclass(frozen=True)
class _Plan:
    """What is fed: windows whose first `head` tokens are dense and not scored, in calls of `piece` tokens."""

    text: Text
    seq_len: int
    head: int
    piece: int | None
    windows: list[Window]

    def run(
        self, session: Session, progress: Callable[[int, int], None] | None
    ) -> Iterator[tuple[Window, Tensor, dict[str, Tensor]]]:
        """Every window with its logits [T, V] and masks [T, U]; the weight cache stays warm."""
        for done, window in enumerate(self.windows, 1):
            session.new_sequence()
            yield window, *self.feed(session, window.ids)
            if progress is not None:
                progress(done, len(self.windows))

    def feed(self, session: Session, ids_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [T, V] and masks [T, U] of a window: the head dense in one call, the rest in pieces."""
        pieces = [(ids_T[: self.head], True)] if self.head else []
        rest = ids_T[self.head :]
        pieces += [(chunk, False) for chunk in rest.split(self.piece or len(rest))]
        steps = [session.step(chunk, dense=dense) for chunk, dense in pieces]
        masks = {site: torch.cat([s.masks[site] for s in steps]) for site in steps[0].masks}
        return torch.cat([s.logits for s in steps]), masks


def _plan(
    model: Identity,
    text: Text | str | None,
    seq_len: int | None,
    max_tokens: int | None,
    prefill: int | None,
    piece: int | None,
) -> _Plan:
    text = sample_text() if text is None else Text("text", text) if isinstance(text, str) else text
    seq_len = model.usual_context if seq_len is None else seq_len
    if piece is not None and piece < 1:
        raise UsageError(f"tokens_per_call is {piece}; it must be at least 1")
    head = _prefill(model.method, prefill, seq_len)
    return _Plan(text, seq_len, head, piece, windows(model, text, seq_len, max_tokens, head))


def _prefill(method: Method, prefill: int | None, seq_len: int) -> int:
    if method.scope == "all":
        if prefill:
            raise UsageError("prefill is for programs of scope=decode; this one sparsifies every token")
        return 0
    head = seq_len // 2 if prefill is None else prefill
    if not 1 <= head < seq_len:
        raise UsageError(f"prefill is {head}; it must be between 1 and {seq_len - 1}, the window less one")
    return head


@dataclass
class _Sums:
    """Negative log-likelihood in nats, over so many tokens that make so many bytes of text."""

    nll: float = 0.0
    count: int = 0
    size_bytes: int = 0

    def add(self, plan: _Plan, window: Window, logits_TV: Tensor) -> Tensor:
        """Count a window; the logits that were scored."""
        first = max(plan.head, 1) - 1
        guesses, truths = logits_TV[first:-1], window.ids[first + 1 :]
        self.nll += float(cross_entropy(guesses, truths, reduction="sum"))
        self.count += len(truths)
        self.size_bytes += int(window.ends[-1] - window.ends[first])
        return guesses

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(self.nll / self.count)

    @property
    def bits_per_byte(self) -> float:
        """Of the text."""
        return self.nll / math.log(2) / self.size_bytes

    def score(self, plan: _Plan, model: Identity) -> OwnScore:
        """The figures with what they depend on. UsageError if there are none."""
        if not self.size_bytes:
            raise UsageError(f"{plan.text.name}: the tokens to predict hold no whole character; give more text")
        return OwnScore(
            model=model.name,
            digest=model.digest,
            method=model.method,
            backend=model.backend,
            text=plan.text.name,
            text_digest=plan.text.digest,
            seq_len=plan.seq_len,
            prefill=plan.head,
            windows=len(plan.windows),
            tokens=self.count,
            perplexity=self.perplexity,
            bits_per_byte=self.bits_per_byte,
        )


def _trace(program: Program, packed: dict[str, list[Any]], text: Text, head: int) -> Trace | None:
    if not packed:
        return None
    meta: dict[str, str | int | float] = {
        "model": program.info.name,
        "digest": program.info.digest,
        "method": program.method.options,
        "density": program.method.density,
        "scope": program.method.scope,
        "text": text.name,
        "text_digest": text.digest,
        "prefill": head,
        "source": "recorded",
        "capacities": capacities_text(program),
    }
    units = {s.name: s.units for s in lower(program).sites if s.name in packed}
    return Trace({site: np.concatenate(rows) for site, rows in packed.items()}, units, meta)


def measured_density(program: Program, trace: Trace | None) -> float:
    """Weights read of all weights of the MLPs, as the masks had it."""
    kept = total = 0.0
    for site in lower(program).sites:
        total += site.weights
        kept += site.kept_weights * (1.0 if site.full or trace is None else trace.density(site.name))
    return kept / total if total else 1.0


def _hit_rate(program: Program, trace: Trace | None) -> float | None:
    """Hits per access in bytes of the cache-aware sites' own cache; None for programs without one."""
    aware = cache_aware(program)
    if not aware or trace is None:
        return None
    hits = accesses = 0.0
    for site in lower(program).sites:
        if site.name in aware:
            policy, capacity = aware[site.name]
            mask = trace.mask(site.name)
            hits += float(replay(mask, capacity, get_policy(policy)).sum()) * site.unit_bytes
            accesses += float(mask.sum()) * site.unit_bytes
    return hits / accesses if accesses else 0.0
