"""The contract of every operator, whoever wrote it."""

from __future__ import annotations

import inspect
import itertools
import typing
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from dipc.ir.operators import OPERATORS, Operator, operator_of
from kit.registered import file_name

OPERATOR_NAMES = OPERATORS.names()
SHAPES = list(itertools.product((1, 7), (1, 5, 33)))

# Sums of at most a few dozen float32 products, in another order.
ROUNDING = 1e-5


def cases(name: str) -> typing.Iterator[tuple[int, tuple[Any, ...]]]:
    """(tokens, arguments) of every example, for one and for many tokens, and for odd numbers of units."""
    for tokens, units in SHAPES:
        generator = torch.Generator().manual_seed(tokens * 100 + units)
        for args in OPERATORS.get(name).examples(generator, tokens, units):
            yield tokens, args


def call(operator: Operator, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """An operator's results, always as a tuple."""
    result = operator.target(*args)
    return result if isinstance(result, tuple) else (result,)


def of_tokens(value: Any, tokens: int) -> bool:
    """Whether an argument has a token dimension: [1, T, ...]."""
    return isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == (1, tokens)


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 0.0) -> None:
    """Masks and state bit for bit, products but for rounding and an operator's tolerance."""
    for a, b in zip(got, expected, strict=True):
        if b.dtype.is_floating_point:
            allowed = max(ROUNDING, tolerance, torch.finfo(b.dtype).eps)
            torch.testing.assert_close(a, b, rtol=0, atol=allowed * max(1.0, float(b.abs().max())))
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_is_documented_and_named_after_its_file(name: str) -> None:
    operator = OPERATORS.get(name)
    assert operator.name.replace("_", "-") == name == file_name(operator.examples)
    assert operator_of(operator.target) is operator
    module = inspect.getmodule(operator.examples)
    assert module is not None and (module.__doc__ or "").startswith(f"`{operator.name}`: ")
    for facet in (operator.reference, operator.fake, operator.traffic, operator.examples):
        assert inspect.cleandoc(facet.__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_shape_rule_agrees_with_its_results(name: str) -> None:
    operator = OPERATORS.get(name)
    for _, args in cases(name):
        real = call(operator, args)
        shapes = call(operator, tuple(a.to("meta") if isinstance(a, Tensor) else a for a in args))
        assert [(s.shape, s.dtype, s.device.type) for s in shapes] == [(r.shape, r.dtype, "meta") for r in real]


@pytest.mark.smoke
@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_kernel_gives_what_its_reference_does(name: str) -> None:
    operator = OPERATORS.get(name)
    for _, args in cases(name):
        meant = operator.reference(*args)
        assert_same(call(operator, args), meant if isinstance(meant, tuple) else (meant,), operator.tolerance)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_is_one_that_torch_can_trace(name: str) -> None:
    operator = OPERATORS.get(name)
    for args in operator.examples(torch.Generator().manual_seed(0), 3, 5)[-2:]:
        torch.library.opcheck(operator.target, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_token_by_token_equals_one_call(name: str) -> None:
    """An operator with several results carries state: result i > 0 is the next value of argument i."""
    operator = OPERATORS.get(name)
    for tokens, args in cases(name):
        if not any(of_tokens(a, tokens) for a in args):
            continue  # It works on weights alone.
        whole = call(operator, args)
        state = list(args[1 : len(whole)])
        for given, after in zip(state, whole[1:], strict=True):
            assert (given.shape, given.dtype) == (after.shape, after.dtype)
        parts = []
        for t in range(tokens):
            token = [a[:, t : t + 1] if of_tokens(a, tokens) else a for a in args]
            token[1 : 1 + len(state)] = state or token[1:1]
            first, *state = call(operator, tuple(token))
            parts.append(first)
        assert_same((torch.cat(parts, 1), *state), whole, operator.tolerance)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_is_deterministic_and_leaves_its_arguments_alone(name: str) -> None:
    operator = OPERATORS.get(name)
    for _, args in cases(name):
        before = [a.clone() if isinstance(a, Tensor) else a for a in args]
        first, second = call(operator, args), call(operator, args)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for a, b in zip(args, before, strict=True):
            if isinstance(a, Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            else:
                assert a == b
        storages = {a.data_ptr() for a in args if isinstance(a, Tensor)}
        assert not storages & {r.data_ptr() for r in first}, "a result is an argument's memory"


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_takes_strided_arguments(name: str) -> None:
    operator = OPERATORS.get(name)
    for _, args in cases(name):
        strided = tuple(torch.stack([a, a], -1)[..., 0] if isinstance(a, Tensor) else a for a in args)
        assert_same(call(operator, strided), call(operator, args), operator.tolerance)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_operator_traffic_names_its_weights(name: str) -> None:
    """In a graph, what has a token dimension is computed and the rest are weights."""
    operator = OPERATORS.get(name)
    for tokens, args in cases(name):
        if tokens == 1:
            continue
        graph, values = fx.Graph(), dict[fx.Node, Tensor]()
        nodes: list[Any] = []
        for i, a in enumerate(args):
            if not isinstance(a, Tensor):
                nodes.append(a)
                continue
            nodes.append(graph.placeholder(f"a{i}") if of_tokens(a, tokens) else graph.get_attr(f"w{i}"))
            values[nodes[-1]] = a
        weights = {str(n.target): a for n, a in values.items() if n.op == "get_attr"}
        for read in operator.traffic(graph.call_function(operator.target, tuple(nodes))):
            assert read.weight in weights and read.axis in ("columns", "rows", "all")
            assert (read.mask is None) == (read.axis == "all")
            if read.mask is not None:
                mask = values[read.mask]
                assert mask.dtype == torch.bool
                assert mask.shape[-1] == weights[read.weight].shape[0 if read.axis == "rows" else 1]
