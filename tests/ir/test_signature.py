"""Signatures in groups and flat, and an operator from outside that no list knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.ir.operator import Operator, Read, argument, weight_read
from dipc.ir.operators import matrices_of, operator_of
from dipc.ir.program import ModelInfo, Port, Program, TensorType
from dipc.ir.signature import flat, schema_of
from dipc.pipeline.stored_weights import choose
from dipc.tuning.lora.trainable import Adapted, Trainable
from dipc.tuning.solvers.sequential import solve_sequentially


@dataclass(frozen=True)
class Pair:
    """Two tensors, and how much the second counts."""

    left: Tensor
    right: Tensor | None = None
    factor: float = 0.5


def summed(x: Tensor, pair: Pair, bias: Tensor | None = None, name: str = "n") -> tuple[Tensor, Pair]:
    return x + pair.left, Pair(pair.left, bias, pair.factor)


def test_a_group_stands_in_the_schema_as_its_fields() -> None:
    rest = "Tensor? right=None, float factor=0.5, Tensor? bias=None, str name='n'"
    assert schema_of(summed) == f"(Tensor x, Tensor left, {rest}) -> (Tensor, Tensor, Tensor?, float)"
    moved = schema_of(summed, last=("factor", "absent")).partition(" -> ")[0]
    assert moved == "(Tensor x, Tensor left, Tensor? right=None, Tensor? bias=None, str name='n', float factor=0.5)"


def test_a_flat_call_makes_the_groups_and_spreads_the_results() -> None:
    needed = inspect.Parameter.empty
    call = flat(summed, {"x": needed, "left": needed, "right": None, "factor": 0.5, "bias": None, "name": "n"})
    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert call(one, two, bias=one, factor=3.0) == (one + two, two, one, 3.0)
    with pytest.raises(TypeError, match=r"summed\(\) lacks left"):
        call(one)
    assert flat(linear, {}) is linear  # no group, nothing to do


# --- An operator from outside ---


def reference(x: Tensor, weight: Tensor) -> Tensor:
    return linear(2 * x, weight)


def doubled(x: Tensor, weight: Tensor) -> Tensor:
    return 2 * x


def fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def traffic(node: fx.Node) -> tuple[Read, ...]:
    return (weight_read(argument(node, "weight"), "all"),)


def no_examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    return []


@pytest.fixture(scope="module")
def twice() -> Operator:
    schema = schema_of(reference)
    return Operator("twice", schema, reference, fake, traffic, no_examples, matrices={"weight": doubled})


def program_of(operator: Operator) -> Program:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(operator.target, (x, graph.get_attr("w")))
    node.meta = {"module": "layer"}
    graph.output((node,))
    weights = {"w": torch.randn(4, 8, generator=torch.Generator().manual_seed(0))}
    port = Port("x", "tokens", TensorType("float32", (1, "seq", 8)))
    return Program(graph, weights, (port,), ("logits",), ModelInfo("by hand", "none", 1, 8, 1, 64, 32.0, "0", True), ())


def test_what_an_operator_multiplies_by_is_stored_solved_for_and_trained(twice: Operator) -> None:
    program = program_of(twice)
    (node,) = program.nodes_of(twice.target)
    assert operator_of(twice.target) is twice and list(matrices_of(node)) == ["weight"]
    chosen, skipped = choose([program], "all", lambda name, weight: None)
    assert (list(chosen), skipped) == (["w"], ())

    seen: list[Tensor] = []

    def solve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
        seen.append(hessian())
        return weight

    windows = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    solve_sequentially(program, windows, ["w"], solve)
    rows = 2 * windows.reshape(-1, 8)
    torch.testing.assert_close(seen[0], rows.T @ rows)

    b = torch.zeros(4, 2, requires_grad=True)
    adapted = Adapted(program.weights["w"], torch.ones(2, 8), b, 1.0)
    (y,) = Trainable(program, {"w": adapted}).run(windows[:1])
    y.sum().backward()
    torch.testing.assert_close(y, reference(windows[:1], program.weights["w"]))
    assert b.grad is not None and bool(b.grad.any())
