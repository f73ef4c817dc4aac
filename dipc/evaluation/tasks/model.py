"""A session as a model of the LM Evaluation Harness.

The tokens, what is cut where a text is longer than the context, and what is scored are those of the harness's own
Hugging Face model (`lm_eval.models.huggingface.HFLM`), so a dense program gets that model's scores.

What a sparse program's scores mean:

- Requests run in the harness's order, one sequence after another. The weight cache starts cold with each task (of MMLU:
  with each subject) and stays warm from request to request, as it does between two windows of
  `dipc.evaluation.perplexity`.
- Requests with the same input (the choices of a question whose answers are one token) are one forward pass, read often.
- Programs without a weight cache keep the KV cache of what a text has in common with the one before (the few shots, the
  question); each token's selection is its own, so nothing changes but rounding. With a weight cache every text is fed
  whole, because a selection depends on all the tokens before.
- With `scope=decode` the context is dense and the continuation sparse, as in `generate` and in perplexity: the last
  token of the context gives the first answer token's logits, densely. An answer of one token is the dense model's.

Shape legend: T tokens of an input, C tokens of a continuation, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from dipc.backends._session import Rewindable, Session
from dipc.errors import UsageError
from dipc.evaluation.finite import broken, check_logits
from dipc.text import check_vocabulary, token_ids, tokenizer_of

Progress = Callable[[int, int], None]
_Kept = tuple[int, bool]
"""A token, and whether it was left dense."""


class SessionLM(TemplateLM):  # type: ignore[misc]
    """The model that the harness calls. See the module's docstring.

    Args:
        session: what runs; with a tokenizer.
        progress: called with requests done and requests in all.

    Raises:
        UsageError: the model came without a tokenizer.
    """

    def __init__(self, session: Session, progress: Progress | None = None) -> None:
        super().__init__()
        self.session, self.progress = session, progress
        self.tokenizer = tokenizer_of(session.identity)
        self._decode_only = session.identity.method.scope == "decode"
        # What was fed last, and one of its places with that place's logits [1, V].
        self._fed: list[_Kept] = []
        self._row: tuple[int, Tensor] | None = None
        self._scored: tuple[list[_Kept], Tensor] | None = None
        # The choices of a question share their context, which the harness encodes with each of them.
        self._ids = lru_cache(maxsize=8)(self._encode_text)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text: the tokenizer's, else the model's first. UsageError if neither has one."""
        own, model = self.tokenizer.eos_token_id, self.session.identity
        if own is None and not model.eos_ids:
            raise UsageError(f"{model.name}: neither the model nor its tokenizer says which token ends a text")
        return int(model.eos_ids[0] if own is None else own)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands in for an empty context. BadFile where the model does not have it."""
        check_vocabulary(self.session.identity, [self._first_token])
        return self._first_token

    @property
    def _first_token(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds unless the text has one already."""
        return self._ids(string, add_special_tokens)

    def _encode_text(self, string: str, special: bool | None) -> list[int]:
        if special is None and has_bos_prefix(string, self.tokenizer.decode(self._first_token)):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        return token_ids(self.session.identity, string, "the task's text", **options)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether greedy decoding would give it."""
        return [self._score(*self._encode(*request.args)) for request in self._in_order(requests)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of each text, in windows of the model's context that do not overlap."""
        found = []
        for request in self._in_order(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.session.identity.context, 1
            )
            found.append(sum(self._score(*make_disjoint_window(window))[0] for window in windows))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, cut at the first stop string."""
        return [self._generate(*request.args) for request in self._in_order(requests)]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def _in_order(self, requests: Sequence[Any]) -> Iterator[Any]:
        done = 0
        for _, group in groupby(requests, key=lambda request: request.task_name):
            self.session.reset()
            self._fed, self._row, self._scored = [], None, None
            for request in group:
                yield request
                done += 1
                if self.progress is not None:
                    self.progress(done, len(requests))

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, as the harness splits them."""
        if context:
            pair: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return pair
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return (ids[:1], ids[1:]) if ids[:1] == [self.prefix_token_id] else ([self.prefix_token_id], ids)

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        limit = self.session.identity.context
        if not 0 < len(continuation) <= limit:
            raise UsageError(
                f"a continuation of {len(continuation)} tokens cannot be scored in a context of {limit} tokens"
            )
        log_CV = self._log_probabilities(context, continuation)
        answer_C = torch.tensor(continuation, device=log_CV.device)
        greedy = bool((log_CV.argmax(-1) == answer_C).all())
        found = float(log_CV.gather(1, answer_C[:, None]).sum())
        if math.isnan(found):
            raise broken(self.session, (context + continuation)[-(limit + 1) : -1])
        return found, greedy

    def _log_probabilities(self, context: list[int], continuation: list[int]) -> Tensor:
        """[C, V]: of what stands at each place of the continuation. What does not fit is cut from the left."""
        count = len(continuation)
        ids = (context + continuation)[-(self.session.identity.context + 1) : -1]
        head = len(ids) - count + 1
        tokens = [(token, self._decode_only and place < head) for place, token in enumerate(ids)]
        if self._scored is None or self._scored[0] != tokens or len(self._scored[1]) < count:
            self._scored = tokens, torch.log_softmax(self._feed(tokens, head - 1), -1)
        return self._scored[1][-count:]

    def _feed(self, tokens: list[_Kept], first: int) -> Tensor:
        """Logits [T - first, V] of a text from the place `first` on."""
        session, keep = self.session, 0
        while keep <= min(first, len(self._fed) - 1) and tokens[keep] == self._fed[keep]:
            keep += 1
        rows = [self._row[1]] if keep > first and self._row is not None and self._row[0] == first else []
        keep = keep if rows else min(keep, first)
        if not (keep and isinstance(session, Rewindable) and session.rewind(keep)):
            session.new_sequence()
            rows, keep = [], 0
        for dense, piece in groupby(tokens[keep:], key=lambda kept: kept[1]):
            logits_TV = session.step([token for token, _ in piece], dense=dense).logits
            rows.append(logits_TV if rows else logits_TV[first - keep :])
        logits = torch.cat(rows)
        self._fed, self._row = tokens, (first, logits[:1].clone())
        return logits

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        settings: dict[str, Any] = normalize_gen_kwargs(options, 256)
        if settings.get("do_sample"):
            raise UsageError("the task samples its answers; only greedy decoding is supported")
        limit, most = self.session.identity.context, settings["max_gen_toks"]
        if most >= limit:
            raise UsageError(f"the task asks for {most} new tokens, and the model's context is {limit}")
        until = handle_stop_sequences(settings.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
        ids = self.tok_encode(context)[-(limit - most) :] or [self.prefix_token_id]
        logits_V = self._feed([(token, self._decode_only) for token in ids], len(ids) - 1)[-1]
        new: list[int] = []
        text = ""
        while len(new) < most and not any(stop in text for stop in until if stop):
            check_logits(self.session, [*ids, *new], logits_V[None])
            token = int(logits_V.argmax())
            new.append(token)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            if token in self.session.identity.end_tokens:
                break
            if len(new) < most:
                logits_V = self.session.step([token]).logits[-1]
        cut: str = postprocess_generated_text(text, until, None)
        return cut
