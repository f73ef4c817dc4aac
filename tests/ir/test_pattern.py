"""The pattern matcher on small graphs: what it takes for the same computation, and what it says where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from dipc.ir.pattern import Match, Mismatch, Pattern

ATEN = torch.ops.aten
LINEAR, MUL, SILU, GELU = ATEN.linear.default, ATEN.mul.Tensor, ATEN.silu.default, ATEN.gelu.default
Build = Callable[[fx.Graph, dict[str, fx.Node]], fx.Node]


def gated(x: Any, gate: Any, up: Any, bias_up: Any) -> Any:
    return MUL(SILU(LINEAR(x, gate)), LINEAR(x, up, bias_up))


def graph_of(function: Callable[..., Any], module: str = "mlp") -> tuple[fx.Graph, fx.Node]:
    """The graph of a function, every node said to be in `module`, and the node of its result."""
    graph = fx.Tracer().trace(function)
    for node in graph.nodes:
        node.meta = {"module": module}
    return graph, next(n for n in graph.nodes if n.op == "output").args[0]


def mismatch(pattern: Callable[..., Any], function: Callable[..., Any]) -> Mismatch:
    found = Pattern(pattern).match(graph_of(function)[1])
    assert isinstance(found, Mismatch)
    return found


def test_a_match_binds_parameters_and_lists_its_nodes() -> None:
    graph, root = graph_of(lambda h, a, b: MUL(SILU(LINEAR(h, a)), LINEAR(h, b)))
    found = Pattern(gated).match(root)
    assert isinstance(found, Match) and found.root is root
    named = {n.name: n for n in graph.nodes}
    assert found.bound == {"x": named["h"], "gate": named["a"], "up": named["b"], "bias_up": None}
    assert len(found.nodes) == 4 and set(found.nodes) == {n for n in graph.nodes if n.op == "call_function"}


def test_a_parameter_called_bias_takes_what_is_there() -> None:
    _, root = graph_of(lambda h, a, b, c: MUL(SILU(LINEAR(h, a)), LINEAR(h, b, c)))
    found = Pattern(gated).match(root)
    assert isinstance(found, Match) and found.bound["bias_up"].name == "c"
    # The gate's pattern has no bias, so a bias there is another computation.
    there = mismatch(gated, lambda h, a, b, c: MUL(SILU(LINEAR(h, a, c)), LINEAR(h, b)))
    assert there.reason == "expected the constant None, found c"


def test_a_keyword_is_the_argument_it_names() -> None:
    _, root = graph_of(lambda h, a, b, c: MUL(SILU(LINEAR(h, weight=a)), LINEAR(h, bias=c, weight=b)))
    found = Pattern(gated).match(root)
    assert isinstance(found, Match) and [found.bound[k].name for k in ("gate", "up", "bias_up")] == ["a", "b", "c"]


def test_products_match_in_both_orders() -> None:
    _, root = graph_of(lambda h, a, b: MUL(LINEAR(h, b), SILU(LINEAR(h, a))))
    found = Pattern(gated).match(root)
    assert isinstance(found, Match) and (found.bound["gate"].name, found.bound["up"].name) == ("a", "b")


def test_an_order_that_fails_leaves_no_binding_behind() -> None:
    """The first order binds x to p before it fails; the second must be free to bind it to q."""

    def pattern(x: Any, y: Any) -> Any:
        return MUL(ATEN.add.Tensor(x, y), ATEN.mul.Tensor(x, SILU(y)))

    _, root = graph_of(lambda p, q: MUL(ATEN.add.Tensor(p, q), ATEN.mul.Tensor(q, SILU(p))))
    found = Pattern(pattern).match(root)
    assert isinstance(found, Match), found
    assert (found.bound["x"].name, found.bound["y"].name) == ("q", "p")


def test_another_operator_is_named_with_the_node_where_it_stands() -> None:
    found = mismatch(gated, lambda h, a, b: MUL(ATEN.tanh.default(LINEAR(h, a)), LINEAR(h, b)))
    assert found.reason == "expected aten.silu.default, found aten.tanh.default"
    assert (found.where, found.node) == ("mlp", "tanh_default")
    assert str(found) == f"mlp: {found.reason} (at %tanh_default)"


def test_the_reason_is_of_the_order_that_came_furthest() -> None:
    """Swapped, with a wrong gate: the message is not that a linear was expected where the other factor stands."""
    found = mismatch(gated, lambda h, a, b: MUL(LINEAR(h, b), SILU(ATEN.mm.default(h, a))))
    assert found.reason == "expected aten.linear.default, found aten.mm.default"


def test_a_parameter_stands_for_one_value() -> None:
    found = mismatch(gated, lambda h, other, a, b: MUL(SILU(LINEAR(h, a)), LINEAR(other, b)))
    assert found.reason == "x is not the same value in both places" and found.node == "other"


def test_an_inner_value_used_elsewhere_is_a_mismatch() -> None:
    """Rewriting would compute it a second time, or leave its other user without it."""

    def leaking(h: Any, a: Any, b: Any) -> Any:
        gate = SILU(LINEAR(h, a))
        return ATEN.add.Tensor(MUL(gate, LINEAR(h, b)), ATEN.relu.default(gate))

    graph, _ = graph_of(leaking)
    product = next(n for n in graph.nodes if n.target is MUL)
    found = Pattern(gated).match(product)
    assert isinstance(found, Mismatch)
    assert found.reason == "its result is also used by %relu_default" and found.node == "silu_default"


def test_the_result_and_the_parameters_may_be_used_elsewhere() -> None:
    def shared(h: Any, a: Any, b: Any) -> Any:
        product = MUL(SILU(LINEAR(h, a)), LINEAR(h, b))
        return ATEN.add.Tensor(ATEN.relu.default(product), ATEN.mul.Tensor(product, ATEN.add.Tensor(h, a)))

    graph, _ = graph_of(shared)
    product = next(n for n in graph.nodes if n.target is MUL)
    assert isinstance(Pattern(gated).match(product), Match)


def test_constants_are_part_of_the_pattern() -> None:
    def tanh_gelu(x: Any) -> Any:
        return GELU(x, approximate="tanh")

    assert isinstance(Pattern(tanh_gelu).match(graph_of(lambda v: GELU(v, approximate="tanh"))[1]), Match)
    found = mismatch(tanh_gelu, lambda v: GELU(v))
    assert found.reason == "expected the constant tanh, found none" and found.node == "gelu_default"
    # A default that is written out is the same call.
    assert isinstance(Pattern(lambda x: GELU(x)).match(graph_of(lambda v: GELU(v, approximate="none"))[1]), Match)


def test_a_constant_where_a_computation_is_expected() -> None:
    found = mismatch(gated, lambda h, a, b: MUL(SILU(LINEAR(h, a)), 2.0))
    assert found.reason == "expected aten.linear.default, found 2.0"


def test_the_reason_is_not_that_of_an_order_that_had_to_fail() -> None:
    """The product matches in its second order; what is wrong is the bias after it."""

    def whole(x: Any, gate: Any, up: Any, down: Any) -> Any:
        return LINEAR(MUL(SILU(LINEAR(x, gate)), LINEAR(x, up)), down)

    found = mismatch(whole, lambda h, a, b, d, c: LINEAR(MUL(LINEAR(h, b), SILU(LINEAR(h, a))), d, c))
    assert found.reason == "expected the constant None, found c"
