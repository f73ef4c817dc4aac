"""Train small networks that guess from an MLP's input which of its GLU units will be large (DejaVu; section 3.3).

All MLPs' predictors learn from the same pass over the text, each from its own MLP's window as it comes by, so that no
activations are kept. Each stops by itself when the loss on windows that are held out hardly falls any more.

Shape legend: T tokens, D d_model, F d_ff, H hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from dipc.calibration.tensors import PREDICTOR
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.ir.selections import kept_units
from dipc.tuning.activity import Activity, Watcher
from dipc.tuning.options import PartOptions

LARGE = 0.1
"""The share of a token's units that is to be guessed (section 6.1)."""
RECALLED = (0.1, 0.5)
_STEP_TOKENS = 128
_LEARNING_RATE = 1e-3
_LEAST_GAIN = 0.99  # what a pass must bring the held-out loss to, of the best before
_HELD_OUT = 10  # every so many windows, one


def train_predictors(
    program: Program,
    windows: Sequence[Tensor],
    *,
    hidden: int = PartOptions.hidden,
    epochs: int = PartOptions.epochs,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Tensor]:
    """The part "predictors", as `dipc.calibration.tensors` names it.

    Args:
        program: dense, outlined, with weights.
        windows: i64[T] each. A tenth of them, spread over the text, is held out.
        hidden: H.
        epochs: at most so many passes over the text (section 6.1 has 20).
        seed: of the first weights and of the order of the windows.
        progress: called with what is going on, windows done and windows in all.

    Raises:
        UsageError: hidden or epochs below 1, fewer than two windows, or a model whose values are not finite.
    """
    if hidden < 1 or epochs < 1:
        raise UsageError(f"predictors: hidden is {hidden} and epochs is {epochs}; both must be at least 1")
    if len(windows) < 2:
        raise UsageError("predictors: one window cannot both be learnt from and held out; give more text")
    held = set(range(_HELD_OUT - 1, len(windows), _HELD_OUT)) or {len(windows) - 1}
    learnt = [i for i in range(len(windows)) if i not in held]
    predictors = {m.name: _Predictor(m.d_model, m.d_ff, hidden, seed + i) for i, m in enumerate(program.mlps)}
    learner = Watcher(program, lambda a: predictors[a.mlp.name].learn(a))
    judge = Watcher(program, lambda a: predictors[a.mlp.name].judge(a))
    order = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        turns = [learnt[i] for i in torch.randperm(len(learnt), generator=order).tolist()]
        for done, index in enumerate((*turns, *sorted(held)), 1):
            (judge if index in held else learner).read(windows[index])
            if progress is not None:
                progress(f"predictors, pass {epoch} of at most {epochs}", done, len(windows))
        for predictor in predictors.values():
            predictor.end_epoch()
        if all(p.stopped for p in predictors.values()):
            break
    made: dict[str, Tensor] = {}
    for mlp in program.mlps:
        best = predictors[mlp.name]
        if not best.weights:
            raise UsageError(f"{mlp.site_prefix}: its predictor's loss is not finite on this text; the model is broken")
        made |= {f"predictor.{mlp.site_prefix}.{part}": best.weights[part] for part in PREDICTOR}
        made[f"recall.{mlp.site_prefix}"] = best.recall
    return made


class _Predictor:
    """w2 relu(w1 x + b1) + b2 for one MLP, while it learns; `weights` and `recall` are those of its best epoch."""

    def __init__(self, d_model: int, d_ff: int, hidden: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        w1 = torch.randn(hidden, d_model, generator=generator) * math.sqrt(2 / d_model)
        w2 = torch.randn(d_ff, hidden, generator=generator) / math.sqrt(hidden)
        b2 = torch.full((d_ff,), math.log(LARGE / (1 - LARGE)))  # the share of large units, before anything is learnt
        self._parameters = [p.requires_grad_() for p in (w1, torch.zeros(hidden), w2, b2)]
        self._optimizer = torch.optim.Adam(self._parameters, _LEARNING_RATE, fused=True)
        self._scale = torch.empty(0)
        self._judged = torch.zeros(1 + len(RECALLED), dtype=torch.float64)  # loss and recall, summed over tokens
        self._tokens = 0
        self._best = math.inf
        self.weights: dict[str, Tensor] = {}
        self.recall = torch.zeros(len(RECALLED))
        self.stopped = False

    def learn(self, activity: Activity) -> None:
        """Learn from one window, 128 tokens a step."""
        if self.stopped:
            return
        x, large = activity.x.float(), _largest(activity.score("glu"), LARGE).float()
        if not len(self._scale):
            self._place(x)
        for some_x, some_large in zip(x.split(_STEP_TOKENS), large.split(_STEP_TOKENS), strict=True):
            with torch.enable_grad():
                binary_cross_entropy_with_logits(self._logits(some_x), some_large).backward()
            self._optimizer.step()
            self._optimizer.zero_grad()

    def judge(self, activity: Activity) -> None:
        """Measure on a window that was held out."""
        if self.stopped:
            return
        logits, truth = self._logits(activity.x.float()), activity.score("glu")
        large, half = (_largest(truth, share) for share in RECALLED)
        loss = float(binary_cross_entropy_with_logits(logits, large.float()))
        recall = [
            float((_largest(logits, s) & t).sum() / t.sum()) for s, t in zip(RECALLED, (large, half), strict=True)
        ]
        self._judged += torch.tensor([loss, *recall], dtype=torch.float64) * len(truth)
        self._tokens += len(truth)

    def end_epoch(self) -> None:
        """Keep the weights if the held-out loss fell; stop if it did not by much."""
        if self.stopped:
            return
        loss, *recall = (self._judged / self._tokens).tolist()
        self._judged.zero_()
        self._tokens = 0
        self.stopped = loss > _LEAST_GAIN * self._best
        if loss < self._best:
            self._best, self.recall, self.weights = loss, torch.tensor(recall), self._unscaled()

    def _place(self, x_TD: Tensor) -> None:
        """On the device of x, which is divided by the root mean square of each of its channels.

        A channel that hardly moves counts as a ten-thousandth of the whole, so that its weights fit into float16.
        """
        squares = x_TD.square()
        self._scale = squares.mean(0).sqrt().clamp_min(max(1e-6, 1e-4 * float(squares.mean().sqrt())))
        for parameter in self._parameters:
            parameter.data = parameter.data.to(x_TD.device)

    def _logits(self, x_TD: Tensor) -> Tensor:
        w1, b1, w2, b2 = self._parameters
        return linear(linear(x_TD / self._scale, w1, b1).relu(), w2, b2)

    def _unscaled(self) -> dict[str, Tensor]:
        """The weights for x as it is."""
        made = {part: p.detach().clone() for part, p in zip(PREDICTOR, self._parameters, strict=True)}
        made["w1"] /= self._scale
        return {part: tensor.cpu() for part, tensor in made.items()}


def _largest(scores_TU: Tensor, share: float) -> Tensor:
    """bool[T, U]: the largest of each token."""
    chosen = scores_TU.topk(kept_units(share, scores_TU.shape[-1]), sorted=False).indices
    return torch.zeros_like(scores_TU, dtype=torch.bool).scatter_(-1, chosen, True)
