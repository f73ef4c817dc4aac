"""A run node by node over all windows: the same numbers as whole calls, what is live, observing and replacing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import dipc
from dipc.backends.eager import EagerSession
from dipc.errors import UsageError
from dipc.ir.codes import CodeFormat
from dipc.ir.program import Program
from dipc.ops.glu import reference as glu
from dipc.passes.int8 import Int8
from dipc.tuning.layerwise import Frontier, last_reads, needed, run_layerwise
from dipc.tuning.solvers.gptq import gptq
from dipc.tuning.solvers.hessian import hessian_of
from dipc.tuning.solvers.sequential import solve_sequentially
from kit.tiny_models import outlined, random_ids, tiny_llama

WINDOWS = random_ids(36).view(3, 12)


def weight_at(node: fx.Node, position: int) -> str:
    """The name of the weight that an argument is."""
    return str(taken(node, position).target)


def taken(node: fx.Node, position: int) -> fx.Node:
    """An argument that is a node."""
    value: Any = node.args[position]
    assert isinstance(value, fx.Node)
    return value


def whole(program: Program) -> list[Tensor]:
    """Logits of each window by itself, in one call."""
    found = []
    for ids in WINDOWS:
        session = EagerSession(program)
        found.append(session.step(ids).logits)
    return found


@pytest.mark.parametrize("pipeline", ["outline-glu", "int4", "dip", "int8,dip-ca", "dip{scope=decode},pack"])
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_whole_run_bit_for_bit(pipeline: str, tied: bool) -> None:
    program = dipc.compile(tiny_llama(tie_word_embeddings=tied), pipeline).program
    for found, expected in zip(run_layerwise(program, WINDOWS), whole(program), strict=True):
        assert torch.equal(found, expected)


def test_every_node_is_visited_before_it_is_computed_and_only_what_is_still_read_is_live() -> None:
    program = outlined()
    seen: list[fx.Node] = []
    most = 0

    def visit(node: fx.Node, live: Frontier) -> None:
        nonlocal most
        assert node not in live.values
        values = [n for n in node.all_input_nodes if n.op != "get_attr"]
        assert all(len(live.of(n)) == 3 for n in values)
        later = {n for user in live.program.graph.nodes if user not in seen for n in user.all_input_nodes}
        assert set(live.values) <= later, "a value that nothing reads any more is kept"
        seen.append(node)
        most = max(most, len(live.values))

    run_layerwise(program, WINDOWS, visit)
    outputs: Any = program.graph.output_node().args[0]
    calls = [n for n in program.graph.nodes if n.op == "call_function" and n in needed(outputs[0])]
    assert seen == calls and len(calls) > 100
    # Rotary tables, the mask, the empty caches, and what one layer has at hand.
    assert most < 20


@pytest.mark.smoke
def test_it_stops_where_it_is_told() -> None:
    program = outlined()
    first, second = program.nodes_of(torch.ops.dipc.glu.default)
    seen: list[fx.Node] = []
    assert run_layerwise(program, WINDOWS, lambda node, _: seen.append(node), until=first) == []
    assert seen[-1] is first and second not in seen
    assert needed(first) < needed(second)


def test_what_a_layer_reads_is_observed_and_its_weights_replaced() -> None:
    """Each MLP doubled on the way gives what a program with doubled weights gives, and later ones see it."""
    program = outlined()
    inputs: list[list[Tensor]] = []
    held: list[int] = []

    def double(node: fx.Node, live: Frontier) -> None:
        held.append(len(live.replaced))
        if node.target is torch.ops.dipc.glu.default:
            inputs.append(live.of(taken(node, 0)))
            name = weight_at(node, 3)
            live.replace(name, 2 * live.weight(name))
            assert torch.equal(live.of(taken(node, 3))[2], 2 * program.weights[name])

    logits = run_layerwise(program, WINDOWS, double)
    weights = {n: 2 * w if n.endswith("down_proj.weight") else w for n, w in program.weights.items()}
    doubled = program.replace(weights=weights)
    for found, expected in zip(logits, whole(doubled), strict=True):
        assert torch.equal(found, expected)
    assert max(held) == 0, "a replaced weight is kept after its last reader"
    seen: list[list[Tensor]] = []
    glus = program.nodes_of(torch.ops.dipc.glu.default)
    run_layerwise(doubled, WINDOWS, lambda n, live: seen.append(live.of(taken(n, 0))) if n in glus else None)
    assert all(torch.equal(a, b) for x, y in zip(inputs, seen, strict=True) for a, b in zip(x, y, strict=True))


def test_a_weight_with_two_nodes_is_kept_for_the_second() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(torch.ops.aten.mul.Tensor, (x, graph.get_attr("w")))
    second = graph.call_function(torch.ops.aten.mul.Tensor, (first, graph.get_attr("w")))
    graph.output((second,))
    found = last_reads(graph, {first, second, *second.all_input_nodes, *first.all_input_nodes})
    assert list(found[first]) == [x] and set(found[second]) == set(second.all_input_nodes)


def test_what_cannot_be_run() -> None:
    with pytest.raises(UsageError, match="windows of 65 tokens are longer than the context of 64"):
        run_layerwise(outlined(), torch.zeros(1, 65, dtype=torch.long))
    bare = outlined().replace(info=dataclasses.replace(outlined().info, has_weights=False))
    with pytest.raises(UsageError, match="captured from a config alone"):
        run_layerwise(bare, WINDOWS)


# --- Solving in order ---


def test_each_matrix_is_solved_on_what_the_rewritten_prefix_gives_it() -> None:
    program = outlined()
    names = [n for n, w in program.weights.items() if "proj" in n or n == "lm_head.weight"]
    order: list[str] = []
    hessians: dict[str, Tensor] = {}

    def halve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
        order.append(name)
        hessians[name] = hessian()
        return weight / 2

    solve_sequentially(program, WINDOWS, names, halve)
    assert order == [n for n in _graph_order(program) if n in names] and len(order) == 15
    weights = {n: w / 2 if n in names else w for n, w in program.weights.items()}
    halved = program.replace(weights=weights)
    expected: dict[str, Tensor] = {}

    def watch(node: fx.Node, live: Frontier) -> None:
        if node.target is torch.ops.aten.linear.default:
            expected[weight_at(node, 1)] = hessian_of(live.of(taken(node, 0)))
        if node.target is torch.ops.dipc.glu.default:
            gate, up, down = (weight_at(node, i) for i in (1, 2, 3))
            expected[gate] = expected[up] = hessian_of(live.of(taken(node, 0)))
            whole_down = torch.eye(48)
            hidden = [glu(x, live.weight(gate), live.weight(up), whole_down) for x in live.of(taken(node, 0))]
            expected[down] = hessian_of(hidden)

    run_layerwise(halved, WINDOWS, watch)
    for name, hessian in hessians.items():
        torch.testing.assert_close(hessian, expected[name], rtol=1e-5, atol=1e-5)


def _graph_order(program: Program) -> list[str]:
    return [str(n.target) for node in program.graph.nodes for n in node.all_input_nodes if n.op == "get_attr"]


def test_a_hessian_that_layers_share_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def counted(inputs: list[Tensor]) -> Tensor:
        found.append(len(inputs))
        return hessian_of(inputs)

    monkeypatch.setattr("dipc.tuning.solvers.sequential.hessian_of", counted)
    names = [n for n in outlined().weights if "layers.0" in n and "proj" in n]

    def keep(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
        hessian()
        return weight

    solve_sequentially(outlined(), WINDOWS, names, keep)
    assert len(names) == 7 and found == [3] * 4  # q, k and v; o; gate and up; down


def test_weights_in_codes_are_nobody_s_matrix() -> None:
    program = Int8().run(outlined()).program

    def solve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
        raise AssertionError(name)

    solve_sequentially(program, WINDOWS, list(program.weights), solve)


def test_inputs_that_are_not_finite_are_said() -> None:
    program = outlined()
    name = "model.layers.0.mlp.up_proj.weight"
    weights = {n: w * float("inf") if n == name else w for n, w in program.weights.items()}
    down = "model.layers.0.mlp.down_proj.weight"

    def solve(name: str, weight: Tensor, hessian: Callable[[], Tensor]) -> Tensor:
        gptq(weight, hessian(), CodeFormat(4, 32, 1))
        return weight

    with pytest.raises(UsageError, match=rf"{down}: the inputs are not finite on the calibration's text"):
        solve_sequentially(program.replace(weights=weights), WINDOWS, [down], solve)
