"""Shapes are found once for calls that are the same, and calls that are not the same are kept apart."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from dipc.ir.program import ModelInfo, Port, Program, TensorType
from dipc.ir.verify import infer_types

MUL = torch.ops.aten.mul.Tensor


def program(graph: fx.Graph) -> Program:
    ports = (Port("x", "tokens", TensorType("int64", (1, "seq"))),)
    return Program(graph, {}, ports, ("logits",), ModelInfo("by hand", "", 1, 1, 1, 64, 32.0, "0", True))


def test_equal_numbers_of_different_types_are_kept_apart() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    made = [graph.call_function(MUL, (x, factor)) for factor in (1, 1.0, True, 1)]
    graph.output(tuple(made))
    infer_types(program(graph))
    assert [n.meta["type"].dtype for n in made] == ["int64", "float32", "int64", "int64"]
    assert {n.meta["type"].shape for n in made} == {(1, "seq")}


def test_calls_that_are_the_same_are_made_once() -> None:
    called: list[tuple[int, ...]] = []

    def doubled(x: Tensor, times: list[int]) -> Tensor:
        called.append(tuple(x.stride()))
        return torch.cat([x] * len(times))

    graph = fx.Graph()
    x = graph.placeholder("x")
    turned = graph.call_function(torch.ops.aten.t.default, (x,))
    made = [graph.call_function(doubled, (y, [0, 0])) for y in (x, x, turned, turned)]
    graph.output(tuple(made))
    infer_types(program(graph))
    assert called == [(7, 1), (1, 7), (11, 1), (1, 11)]
    assert [n.meta["type"].shape for n in made] == [(2, "seq"), (2, "seq"), ("?", 1), ("?", 1)]
