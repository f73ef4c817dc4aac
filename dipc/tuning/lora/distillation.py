"""Train a sparse program's adapters so that its logits match the dense ones (section 6.1 of the paper).

Everything that the course of a training depends on is in its `Course`; nothing is drawn at random while it runs. So it
can stop after any iteration and go on later to the same result, bit for bit.

Shape legend: T tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dipc.errors import NotFinite
from dipc.ir.finite import first_not_finite, not_finite
from dipc.ir.program import Program
from dipc.quantities import perplexity_of
from dipc.tuning.lora.trainable import Trainable, arguments, divergence

WARM_UP = 0.05
"""Share of the iterations over which the learning rate rises."""
MAX_NORM = 1.0
"""To which the gradient is clipped."""


@dataclass(frozen=True)
class Course:
    """How long, how fast and over which windows is trained: `batch` windows an iteration, in a seeded order."""

    iterations: int
    batch: int
    learning_rate: float
    seed: int

    def order(self, windows: int) -> Tensor:
        """Which windows each iteration takes, i64 [iterations, batch]: all of them before any a second time."""
        draw, count = torch.Generator().manual_seed(self.seed), self.iterations * self.batch
        rounds = [torch.randperm(windows, generator=draw) for _ in range(math.ceil(count / windows))]
        return torch.cat(rounds)[:count].reshape(self.iterations, self.batch)

    def rate(self, iteration: int) -> float:
        """The learning rate: a linear rise, then half a cosine to zero."""
        rise = max(1, round(WARM_UP * self.iterations))
        if iteration < rise:
            return self.learning_rate * (iteration + 1) / rise
        return self.learning_rate * (1 + math.cos(math.pi * (iteration - rise) / max(1, self.iterations - rise))) / 2


class Training:
    """The adapters in training: one call of `step` is one iteration.

    Args:
        dense: what is learnt from.
        sparse: what learns.
        parameters: its adapters' matrices, by name.
        windows: token ids [T] of each.
        course: how.
    """

    def __init__(
        self,
        dense: Program,
        sparse: Trainable,
        parameters: dict[str, torch.nn.Parameter],
        windows: Sequence[Tensor],
        course: Course,
    ) -> None:
        self.dense, self.sparse, self.windows, self.course = dense, sparse, windows, course
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.losses: list[float] = []
        self._order = course.order(len(windows))
        self._optimizer = torch.optim.AdamW(self.parameters, lr=course.learning_rate, weight_decay=0.0)

    def step(self) -> float:
        """One iteration; its loss, KL(dense || sparse) in nats per token, before the update.

        Raises:
            NotFinite: the dense model computes NaN or infinity, or the training went astray.
        """
        iteration, loss = len(self.losses), 0.0
        for index in self._order[iteration].tolist():
            ids_T = self.windows[index]
            part = divergence(dense_logits(self.dense, ids_T), self.sparse.logits(ids_T)) / self.course.batch
            part.backward()
            loss += float(part.detach())
        if not math.isfinite(loss):
            raise _blame(self.dense, [self.windows[i] for i in self._order[iteration].tolist()]) or NotFinite(
                f"iteration {iteration + 1}: the loss is not finite; lower the learning rate "
                f"(it is {self.course.learning_rate:g})"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self.course.rate(iteration)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(loss)
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """All that changes in training, by name."""
        state: dict[int, dict[str, Tensor]] = self._optimizer.state_dict()["state"]
        moments = {f"{key}/{self.names[i]}": value for i, own in state.items() for key, value in own.items()}
        own = {f"parameter/{n}": p.detach() for n, p in zip(self.names, self.parameters, strict=True)}
        return {**own, **moments, "losses": torch.tensor(self.losses, dtype=torch.float64)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave. KeyError or RuntimeError where it is of another training."""
        # Copies, because memory that a file was mapped to may be aligned otherwise, and products then summed otherwise.
        held = {name: value.clone() for name, value in tensors.items()}
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(held[f"parameter/{name}"])
        self.losses = held["losses"].tolist()
        keys = ("step", "exp_avg", "exp_avg_sq") if self.losses else ()
        state = {i: {key: held[f"{key}/{n}"] for key in keys} for i, n in enumerate(self.names) if keys}
        groups: Any = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


@dataclass(frozen=True)
class Quality:
    """How good a program is on some windows: perplexity, and KL(dense || it) in nats per token."""

    perplexity: float
    divergence: float


@torch.no_grad()
def compare(dense: Program, others: Sequence[Trainable], windows: Sequence[Tensor]) -> list[Quality]:
    """The quality of the dense program and of each of the others. NotFinite where one computes NaN."""
    losses, divergences = [0.0] * (len(others) + 1), [0.0] * (len(others) + 1)
    for ids_T in windows:
        dense_TV = dense_logits(dense, ids_T)
        for i, logits_TV in enumerate((dense_TV, *(other.logits(ids_T) for other in others))):
            losses[i] += float(cross_entropy(logits_TV[:-1].float(), ids_T[1:], reduction="sum"))
            divergences[i] += float(divergence(dense_TV, logits_TV)) * len(ids_T)
            if math.isnan(losses[i] + divergences[i]):
                raise _blame(dense, [ids_T]) or NotFinite("on the text that was held out, the loss is not finite")
    tokens = sum(len(ids_T) for ids_T in windows)
    guessed = tokens - len(windows)
    return [Quality(perplexity_of(n, guessed), d / tokens) for n, d in zip(losses, divergences, strict=True)]


def _blame(dense: Program, windows: Sequence[Tensor]) -> NotFinite | None:
    """Return the error of the dense model, if it is the one whose values are not finite on some windows."""
    guilty = (ids_T for ids_T in windows if first_not_finite(dense, ids_T) is not None)
    return next((not_finite(dense, ids_T) for ids_T in guilty), None)


@torch.no_grad()
def dense_logits(dense: Program, ids_T: Tensor) -> Tensor:
    """Logits [T, V] of a program, for comparison only."""
    logits_TV: Tensor = dense.module(*arguments(dense, ids_T))[0][0]
    return logits_TV
