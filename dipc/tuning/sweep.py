"""Run one window of text through a model at many densities: what the runs have in common is computed once.

Runs go through the graph side by side. A value that is the same in all of them is computed once; of values that differ,
those that are computed token by token lie behind each other in one tensor, so that a matrix is multiplied by the tokens
of all runs at once, which is sooner than by those of one run after the other.

Shape legend: R runs side by side, T tokens of the window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn.functional import linear, log_softmax
from torch.utils._pytree import tree_leaves, tree_map

from dipc.ir import operators
from dipc.ir.finite import not_finite
from dipc.ir.operator import argument
from dipc.ir.placement import device_of
from dipc.ir.program import Program
from dipc.ir.selections import kept_units
from dipc.ir.verify import empty_port
from dipc.tuning.divergence import kl_divergence
from dipc.tuning.layerwise import last_reads, needed

Densities = Mapping[str, float]
"""The densities of a run by site; a site that no run names keeps everything."""

_ATEN = torch.ops.aten
_POINTWISE = frozenset(
    getattr(_ATEN, name) for name in ("silu", "gelu", "relu", "abs", "mul", "add", "sub", "pow", "rsqrt", "to")
)
_COMPARED_LOGITS = 2**20
"""Logits are compared in pieces that stay near the processor."""


@dataclass(frozen=True)
class _Runs:
    """A value that differs between runs: [1, R T, ...], the runs behind each other, or a value for each of them."""

    count: int
    joined: Tensor | None = None
    apart: tuple[Any, ...] = ()

    @property
    def each(self) -> tuple[Any, ...]:
        """The values, run by run."""
        return self.apart if self.joined is None else self.joined.chunk(self.count, 1)

    def together(self) -> Tensor:
        """All values as one tensor."""
        return torch.cat(self.apart, 1) if self.joined is None else self.joined


class Sweep:
    """Runs one window through a model at many densities.

    Args:
        sparse: a program that DIP has rewritten, at any density.
        ids_T: the window.
    """

    def __init__(self, sparse: Program, ids_T: Tensor) -> None:
        self._program, self._ids_T = sparse, ids_T
        self._select: Any = operators.target("select_topk")
        self._product: Any = operators.target("gather_linear")
        self._logits: fx.Node = sparse.graph.output_node().args[0][0]  # type: ignore[index, assignment]
        wanted = needed(self._logits)
        self._last = last_reads(sparse.graph, wanted)
        self._nodes = [n for n in sparse.graph.nodes if n in wanted and n.op == "call_function"]
        self._selects = {str(argument(n, "site")): i for i, n in enumerate(self._nodes) if n.target is self._select}
        self._head = max((i for i, n in enumerate(self._nodes) if n.target is _ATEN.linear.default), default=0)
        self._start = self._given()
        with torch.no_grad():
            self._log_p_TV = log_softmax(next(self._finished(self._start, 0, [{}])), -1)

    @torch.no_grad()
    def whole(self, runs: Sequence[Densities]) -> list[float]:
        """Return each whole run's divergence from dense, in nats summed over the window's tokens.

        Raises:
            NotFinite: the model computes NaN or infinity.
        """
        return self._divergences(self._start, 0, runs)

    @torch.no_grad()
    def sites(self, grid: Sequence[float], wanted: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
        """Yield sites in the graph's order with their divergence at each density, as `whole`, all else being dense.

        Args:
            grid: densities.
            wanted: the sites.
        """
        values, done = dict(self._start), 0
        for site, position in self._selects.items():
            if site in wanted:
                self._advance(values, done, position, [{site: 1.0}])
                done = position
                yield site, self._divergences(values, position, [{site: density} for density in grid])

    def _divergences(self, values: Mapping[fx.Node, Any], position: int, runs: Sequence[Densities]) -> list[float]:
        found = []
        for logits_TV in self._finished(values, position, runs):
            figure = self._divergence(logits_TV)
            if not math.isfinite(figure):
                raise not_finite(self._program, self._ids_T)
            found.append(max(0.0, figure))
        return found

    def _divergence(self, logits_TV: Tensor) -> float:
        """KL(dense || run) in nats, summed over tokens."""
        step = max(1, _COMPARED_LOGITS // logits_TV.shape[-1])
        pairs = zip(self._log_p_TV.split(step), logits_TV.split(step), strict=True)
        return math.fsum(kl_divergence(log_p, log_softmax(logits, -1), log_p.exp()) for log_p, logits in pairs)

    def _given(self) -> dict[fx.Node, Any]:
        device = device_of(self._program)
        ids_T = self._ids_T.to(device)
        given = {"tokens": ids_T[None], "positions": torch.arange(len(ids_T), device=device)[None]}
        values = [given.get(p.kind, empty_port(p, len(ids_T), 0, str(device))) for p in self._program.inputs]
        return dict(zip([n for n in self._program.graph.nodes if n.op == "placeholder"], values, strict=True))

    def _finished(self, values: Mapping[fx.Node, Any], position: int, runs: Sequence[Densities]) -> Iterator[Tensor]:
        """Yield the logits [T, V] of each run from the node at `position` on; `values` stay as they are.

        The head is computed for one run after the other: its results are the largest by far.
        """
        common, head = dict(values), max(position, self._head)
        self._advance(common, position, head, runs)
        for number, run in enumerate(runs):
            own = {n: v.each[number] if isinstance(v, _Runs) else v for n, v in common.items()}
            self._advance(own, head, len(self._nodes), [run])
            yield own[self._logits][0].float()

    def _advance(self, values: dict[fx.Node, Any], start: int, stop: int, runs: Sequence[Densities]) -> None:
        """Compute nodes into `values`, and drop what no later node reads."""
        sparse = {self._nodes[self._selects[site]] for run in runs for site in run}
        for node in self._nodes[start:stop]:
            if not all(user.target is self._select and user not in sparse for user in node.users):
                values[node] = self._computed(node, values, runs, sparse)
            for dead in self._last.get(node, ()):
                values.pop(dead, None)

    def _computed(
        self, node: fx.Node, values: Mapping[fx.Node, Any], runs: Sequence[Densities], sparse: set[fx.Node]
    ) -> Any:
        """A node's value; of a selection that keeps everything None."""
        weights = self._program.weights
        target: Any = node.target
        args, kwargs = map_arg(
            (node.args, node.kwargs), lambda n: weights[str(n.target)] if n.op == "get_attr" else values.get(n)
        )
        if target is self._select:
            return self._mask(node, args[0], runs) if node in sparse else None
        if target is self._product and args[1] is None:
            return _product(linear, args[:1], args[2:], len(runs))
        inputs = {self._product: 2, _ATEN.linear.default: 1}.get(target)
        if inputs is not None:
            return _product(target, args[:inputs], args[inputs:], len(runs))
        return _applied(target, args, kwargs, len(runs))

    def _mask(self, node: fx.Node, score: Any, runs: Sequence[Densities]) -> Any:
        """The masks of a site: as many units as each run's density says."""
        site = str(argument(node, "site"))
        scores = score.each if isinstance(score, _Runs) else [score] * len(runs)
        masks = [
            self._select(own, kept_units(run.get(site, 1.0), own.shape[-1]), site)
            for own, run in zip(scores, runs, strict=True)
        ]
        return masks[0] if len(runs) == 1 else _Runs(len(runs), torch.cat(masks, 1))


def work(sparse: Program) -> dict[str, int]:
    """Return how many multiplications a token takes, which is what time goes by: from each site on, under "" in all."""
    left, found = 0, {}
    for node in reversed(sparse.graph.nodes):
        if node.target in (operators.target("gather_linear"), _ATEN.linear.default):
            weight = argument(node, "weight")
            left += sparse.weights[str(weight.target)].numel() if weight.op == "get_attr" else 0
        elif node.target is operators.target("select_topk"):
            found[str(argument(node, "site"))] = left
    return found | {"": left}


def _product(target: Any, inputs: Sequence[Any], weights: Sequence[Any], count: int) -> Any:
    """A product of what each token has with what all tokens share: for the tokens of all runs at once."""
    joined = _joined(inputs, count) if any(isinstance(value, _Runs) for value in inputs) else None
    if joined is None:
        return _applied(target, (*inputs, *weights), {}, count)
    return _Runs(count, target(*joined, *weights))


def _applied(target: Any, args: Any, kwargs: Any, count: int) -> Any:
    """The result of an operator on values of which some may differ between runs."""
    differing = {id(value): value for value in tree_leaves((args, kwargs)) if isinstance(value, _Runs)}
    if not differing:
        return target(*args, **kwargs)
    if _is_by_token(target, args) and all(value.joined is not None for value in differing.values()):
        joined = _joined(args, count)
        if joined is not None:
            return _Runs(count, target(*joined, **kwargs))
    each = {key: value.each for key, value in differing.items()}
    made = []
    for run in range(count):
        own_args, own_kwargs = tree_map(lambda v, run=run: each[id(v)][run] if id(v) in each else v, (args, kwargs))
        made.append(target(*own_args, **own_kwargs))
    return _Runs(count, apart=tuple(made))


def _is_by_token(target: Any, args: Any) -> bool:
    """Return whether an operator makes of each token what it would make of it alone."""
    if target is _ATEN.mean.dim:
        return list(args[1]) == [-1] and args[2:] == (True,)
    return getattr(target, "overloadpacket", None) in _POINTWISE


def _joined(values: Sequence[Any], count: int) -> list[Any] | None:
    """Values over the tokens of all runs at once, what they share repeated; None where their shapes do not allow it."""
    whole = [value.together() if isinstance(value, _Runs) else value for value in values]
    shapes = {(w.dim(), w.shape[1]) for v, w in zip(values, whole, strict=True) if isinstance(v, _Runs)}
    dim, tokens = shapes.pop()
    if shapes or dim < 3:
        return None
    for i, value in enumerate(whole):
        if not isinstance(value, Tensor) or isinstance(values[i], _Runs):
            continue
        if value.dim() == dim and value.shape[1] * count == tokens:
            whole[i] = torch.cat([value] * count, 1)
        elif value.dim() >= dim - 1 and (value.dim() > dim or value.shape[1 - dim] != 1):
            return None
    return whole
