"""A program that gradients flow through, with low-rank updates of its weights to train (section 4, Eq. 9).

Products are computed by the operators' plain references, which are differentiable torch. A selection is a decision:
it is made on detached scores by its kernel, and its mask is a constant to the gradient.

Shape legend: T tokens of a window, V vocabulary, O outputs and I inputs of a matrix, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import kl_div, linear, log_softmax
from torch.utils._pytree import tree_map_only

from dipc.ir.operators import LINEAR, operator_of
from dipc.ir.program import Program, TensorType
from dipc.ir.verify import empty_port, infer_types


@dataclass(frozen=True)
class Adapted:
    """W + scale B A, where W [O, I] is frozen, and a [R, I] and b [at least O, R] are trained.

    B are O rows of b from `first` on: two weights may share a pair of matrices.

    A linear layer of it is the sum of two, so that neither the sum of the matrices nor its gradient, both as large as
    the weight, is ever held.
    """

    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float
    first: int = 0

    def matrix(self) -> Tensor:
        """The sum itself [O, I], for what is no linear layer."""
        return (self.weight + self._rows() @ self.a).to(self.weight.dtype)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(W + scale B A) x + bias. x [..., I] -> [..., O]."""
        low = linear(linear(x.to(self.a.dtype), self.a), self._rows())
        return linear(x, self.weight, bias) + low.to(x.dtype)

    def _rows(self) -> Tensor:
        """scale B."""
        return self.scale * self.b[self.first : self.first + self.weight.shape[0]]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`linear(x, weight, bias)` where the weight is adapted."""
        if function is not linear or kwargs or not isinstance(args[1], Adapted):
            return NotImplemented
        return args[1].product(args[0], *args[2:])


class Trainable(fx.Interpreter):
    """A program as a differentiable function of its adapted weights.

    Args:
        program: with weights, none of them rounded.
        adapted: name of a weight -> what stands in its place.
    """

    def __init__(self, program: Program, adapted: Mapping[str, Adapted]) -> None:
        super().__init__(program.module)
        if any("type" not in n.meta for n in program.graph.nodes):
            infer_types(program)
        self.program, self.adapted = program, adapted
        self._decisions = {n.target for n in program.graph.nodes if operator_of(n.target) and not _is_product(n)}

    def logits(self, ids_T: Tensor) -> Tensor:
        """Logits [T, V] of a window [T], every token sparse, from an empty cache and a fresh selection state."""
        logits_TV: Tensor = self.run(*arguments(self.program, ids_T))[0][0]
        return logits_TV

    def fetch_attr(self, target: str) -> Any:
        """A weight, or what stands in its place."""
        return self.adapted.get(target) or self.program.weights[target]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One node."""
        operator = operator_of(target)
        if target is LINEAR:
            return linear(*args, **kwargs)
        if operator is None or not operator.matrices:
            args, kwargs = tree_map_only(Adapted, Adapted.matrix, (args, kwargs))
        if target in self._decisions:
            with torch.no_grad():
                return target(*args, **kwargs)
        function: Callable[..., Any] = target if operator is None else operator.reference
        return function(*args, **kwargs)


def _is_product(node: fx.Node) -> bool:
    """Return whether an operator's results are numbers; otherwise they are masks and counts, and have no gradient."""
    types = node.meta["type"] if isinstance(node.meta["type"], tuple) else (node.meta["type"],)
    return any(isinstance(t, TensorType) and "float" in t.dtype for t in types)


def arguments(program: Program, ids_T: Tensor) -> list[Tensor]:
    """Return what the program's ports take for a window [T] by itself, no token left dense."""
    count = len(ids_T)
    given = {"tokens": ids_T[None], "positions": torch.arange(count)[None]}
    return [given[p.kind] if p.kind in given else empty_port(p, count, 0) for p in program.inputs]


def divergence(dense_TV: Tensor, sparse_TV: Tensor) -> Tensor:
    """KL(dense || sparse) of the next tokens' distributions, in nats per token: what distillation lowers."""
    log_p, log_q = (log_softmax(logits.float(), -1) for logits in (dense_TV, sparse_TV))
    return kl_div(log_q, log_p, reduction="batchmean", log_target=True)
