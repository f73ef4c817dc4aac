"""Measuring a program on text: perplexity, bits per byte, distance to the dense model, density, and the activity trace.

The text is one row of tokens, cut into windows that do not overlap (the paper's protocol with its window of 2,048). The
weight cache stays warm from window to window, as on a device; the KV cache does not.

Shape legend: T tokens of a window, V vocabulary, U units of a site.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from dipc.backends.eager import EagerSession
from dipc.cache.policy import get_policy
from dipc.cache.replay import replay
from dipc.errors import UsageError
from dipc.generation import tokenizer_of
from dipc.lower import cache_aware, capacities_text, lower
from dipc.program import Method, Program
from dipc.trace import Trace

Ints = np.ndarray[Any, np.dtype[np.int64]]
SAMPLE = Path(__file__).parent / "demo" / "sample.txt"


@dataclass(frozen=True)
class Text:
    """Text to measure on: its name, and a digest that says which text a result belongs to."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """What was measured, with all that the figures depend on. The dense figures are of the same tokens."""

    model: str
    digest: str
    method: Method
    text: str
    text_digest: str
    seq_len: int
    prefill: int
    windows: int
    tokens: int
    perplexity: float
    bits_per_byte: float
    dense_perplexity: float
    dense_bits_per_byte: float
    kl_to_dense: float
    density: float
    hit_rate: float | None
    cache_policy: str
    trace: Trace | None = None


def read_text(path: Path) -> Text:
    """A UTF-8 text file. UsageError if it is absent, empty or something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.strip():
        raise UsageError(f"{path}: the file is empty; perplexity needs text")
    return Text(path.name, text)


def sample_text() -> Text:
    """The text that comes with dipc."""
    return Text("the sample text of dipc", SAMPLE.read_text(encoding="utf-8"))


def evaluate(
    program: Program,
    text: Text | str | None = None,
    *,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    prefill: int | None = None,
    tokens_per_call: int | None = None,
    record: bool = False,
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
        progress: called with windows done and windows in all.

    Raises:
        UsageError: a window longer than the context, or nothing to predict in the text.
    """
    text = sample_text() if text is None else Text("text", text) if isinstance(text, str) else text
    seq_len = program.info.usual_context if seq_len is None else seq_len
    if tokens_per_call is not None and tokens_per_call < 1:
        raise UsageError(f"tokens_per_call is {tokens_per_call}; it must be at least 1")
    head = _prefill(program, prefill, seq_len)
    windows = _windows(program, text, seq_len, max_tokens, head)
    sparse, dense = EagerSession(program, record=True), EagerSession(program.reference)
    nll, dense_nll, divergence, count, bytes_scored = 0.0, 0.0, 0.0, 0, 0
    masks: dict[str, list[Any]] = {}
    priced = {site.name for site in lower(program).sites}
    for done, (window_T, end_T) in enumerate(windows):
        sparse.new_sequence()
        dense.new_sequence()
        logits_TV, seen = _run(sparse, window_T, head, tokens_per_call)
        dense_TV = logits_TV if program.dense is None else _run(dense, window_T, head, None)[0]
        first = max(head, 1) - 1
        guesses, truths, expected = logits_TV[first:-1], window_T[first + 1 :], dense_TV[first:-1]
        nll += float(cross_entropy(guesses, truths, reduction="sum"))
        dense_nll += float(cross_entropy(expected, truths, reduction="sum"))
        log_p, log_q = log_softmax(expected, -1), log_softmax(guesses, -1)
        divergence += float((log_p.exp() * (log_p - log_q)).sum())
        count += len(truths)
        bytes_scored += int(end_T[-1] - end_T[first])
        for site, mask in seen.items():
            if site not in priced:
                continue
            masks.setdefault(site, []).append(np.packbits(mask[head:].numpy(), axis=-1))
        if progress is not None:
            progress(done + 1, len(windows))
    if not bytes_scored:
        raise UsageError(f"{text.name}: the tokens to predict hold no whole character; give more text")
    trace = _trace(program, masks, text, head)
    return Score(
        model=program.info.name,
        digest=program.info.digest,
        method=program.method,
        text=text.name,
        text_digest=text.digest,
        seq_len=seq_len,
        prefill=head,
        windows=len(windows),
        tokens=count,
        perplexity=math.exp(nll / count),
        bits_per_byte=nll / math.log(2) / bytes_scored,
        dense_perplexity=math.exp(dense_nll / count),
        dense_bits_per_byte=dense_nll / math.log(2) / bytes_scored,
        kl_to_dense=divergence / count,
        density=measured_density(program, trace),
        hit_rate=_hit_rate(program, trace),
        cache_policy=", ".join(sorted({p for p, _ in cache_aware(program).values()})) or "none",
        trace=trace if record else None,
    )


def _prefill(program: Program, prefill: int | None, seq_len: int) -> int:
    if program.method.scope == "all":
        if prefill:
            raise UsageError("prefill is for programs of scope=decode; this one sparsifies every token")
        return 0
    head = seq_len // 2 if prefill is None else prefill
    if not 1 <= head < seq_len:
        raise UsageError(f"prefill is {head}; it must be between 1 and {seq_len - 1}, the window less one")
    return head


def _windows(
    program: Program, text: Text, seq_len: int, max_tokens: int | None, head: int
) -> list[tuple[Tensor, Ints]]:
    """Rows of at most `seq_len` tokens, each with the byte of the text at which every token ends.

    Where the tokenizer starts a text with a token of its own, so does each row.
    """
    tokenizer, context = tokenizer_of(program), program.info.context
    if not 2 <= seq_len <= context:
        raise UsageError(f"seq_len is {seq_len}; it must be between 2 and the model's context of {context}")
    if max_tokens is not None and max_tokens < 2:
        raise UsageError(f"max_tokens is {max_tokens}; it must be at least 2")
    ids_T, ends_T = _encode(tokenizer, text.text, max_tokens)
    lead = [t for t in tokenizer("a", verbose=False)["input_ids"][:1] if t == tokenizer.bos_token_id]
    step, rows = seq_len - len(lead), []
    for start in range(0, len(ids_T), step):
        row = torch.cat([torch.tensor(lead, dtype=torch.long), ids_T[start : start + step]])
        begin = ends_T[start - 1] if start else 0
        if len(row) > max(head, 1):
            rows.append((row, np.concatenate([np.full(len(lead), begin), ends_T[start : start + step]])))
    if not rows:
        count = len(ids_T)
        raise UsageError(f"{text.name}: {count} tokens leave nothing to predict; give more text or a smaller seq_len")
    return rows


def _encode(tokenizer: Any, text: str, max_tokens: int | None) -> tuple[Tensor, Ints]:
    """Token ids [T], and the byte of the UTF-8 text at which each ends."""
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(
        text, add_special_tokens=False, verbose=False, **{"return_offsets_mapping": True} if fast else {}
    )
    ids = encoded["input_ids"][:max_tokens]
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


def _run(session: EagerSession, window_T: Tensor, head: int, piece: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [T, V] and masks [T, U] of a window: the head dense in one call, the rest in pieces."""
    pieces = [(window_T[:head], True)] if head else []
    rest = window_T[head:]
    pieces += [(chunk, False) for chunk in rest.split(piece or len(rest))]
    steps = [session.step(chunk, dense=dense) for chunk, dense in pieces]
    masks = {site: torch.cat([s.masks[site] for s in steps]) for site in steps[0].masks}
    return torch.cat([s.logits for s in steps]), masks


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
        kept += site.weights * (1.0 if site.full or trace is None else trace.density(site.name))
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
