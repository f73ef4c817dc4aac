"""The operators on cases worked by hand, selection against a plain reading of its rule, and their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn.functional import gelu, silu

from dipc.cache.state import CacheState
from dipc.errors import UnknownName
from dipc.ir import operators
from dipc.ir.operator import Read
from dipc.ops import select_topk
from dipc.ops.select_cache_aware import OPERATOR as SELECT_CACHE_AWARE

dipc = torch.ops.dipc
for name in operators.OPERATORS.names():
    operators.OPERATORS.get(name)  # An operator is known to torch once its file is imported.


def row(*values: float) -> Tensor:
    """One token: [1, 1, U]."""
    return torch.tensor([[list(values)]])


def kept(mask: Tensor) -> list[list[int]]:
    """The kept units of each token."""
    return [[i for i, keep in enumerate(m) if keep] for m in mask.reshape(-1, mask.shape[-1]).tolist()]


# --- select_topk ---


def test_topk_keeps_the_largest_and_of_equals_the_lower_index() -> None:
    assert kept(dipc.select_topk(row(1.0, 3.0, 2.0, 3.0), 2)) == [[1, 3]]
    assert kept(dipc.select_topk(row(2.0, 3.0, 2.0, 2.0), 2)) == [[0, 1]]
    assert kept(dipc.select_topk(row(0.0, 0.0, 0.0, 0.0), 3)) == [[0, 1, 2]]


def test_topk_compares_values_not_magnitudes() -> None:
    assert kept(dipc.select_topk(row(-5.0, 1.0, 0.5), 1)) == [[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [dipc.select_topk, select_topk.reference])
def test_topk_counts_nan_as_infinity(function: Any, dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    score = torch.tensor([[[1.0, inf, nan, 2.0], [nan, 1.0, inf, nan], [-inf, 1.0, 2.0, nan]]], dtype=dtype)
    assert kept(function(score, 1)) == [[1], [0], [3]]
    assert kept(function(score, 2)) == [[1, 2], [0, 2], [2, 3]]
    assert kept(function(score, 3)) == [[1, 2, 3], [0, 2, 3], [1, 2, 3]]
    assert kept(function(score, 1, "", torch.tensor([[False, True, False]]))) == [[1], [0, 1, 2, 3], [3]]


@pytest.mark.parametrize("function", [dipc.select_cache_aware, SELECT_CACHE_AWARE.reference])
def test_cache_aware_counts_nan_as_infinity_whether_cached_or_not(function: Any) -> None:
    nan, inf = float("nan"), float("inf")
    # Units 0 and 1 are cached after the first token; then NaN, infinity and 0.2 times either weigh the same.
    first = function(row(9.0, 8.0, 1.0, 1.0), *cold(4), 2, 2, 0.2)
    assert kept(first[0]) == [[0, 1]] and first[1].tolist() == [True, True, False, False]
    assert kept(function(row(1.0, inf, nan, 2.0), *first[1:], 1, 2, 0.2)[0]) == [[1]]
    assert kept(function(row(1.0, 5.0, nan, inf), *first[1:], 1, 2, 0.2)[0]) == [[2]]
    assert kept(function(row(nan, 5.0, nan, inf), *first[1:], 2, 2, 0.2)[0]) == [[0, 2]]
    # With gamma 0 an infinite score outside the cache is 0 times infinity: NaN, and so infinity again.
    assert kept(function(row(7.0, 5.0, inf, 6.0), *first[1:], 1, 2, 0.0)[0]) == [[2]]


def test_topk_takes_none_and_all() -> None:
    assert kept(dipc.select_topk(row(1.0, 2.0), 0)) == [[]]
    assert kept(dipc.select_topk(row(1.0, 2.0), 2)) == [[0, 1]]


def test_topk_leaves_dense_tokens_whole() -> None:
    score = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]])
    assert kept(dipc.select_topk(score, 1, "here", torch.tensor([[False, True]]))) == [[2], [0, 1, 2]]


SCORES = st.integers(1, 9).flatmap(
    lambda units: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 7.0]), min_size=units, max_size=units), min_size=1, max_size=6
    )
)


@given(SCORES, st.data())
@settings(max_examples=60, deadline=None)
def test_topk_is_a_sort_by_score_then_index(rows: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(rows[0])))
    mask = dipc.select_topk(torch.tensor([rows]), k)
    assert kept(mask) == [sorted(sorted(range(len(r)), key=lambda i: (-r[i], i))[:k]) for r in rows]


# --- select_cache_aware ---


def cold(units: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The state of a site that has seen nothing, in the operator's order."""
    state = CacheState.empty(units)
    return state.cached, state.freq, state.last_used, state.t


@pytest.mark.smoke
def test_cache_aware_prefers_what_is_cached_by_gamma() -> None:
    # Nothing is cached at t=0: all scores are halved alike, and unit 1 is taken and cached. At t=1 unit 1 keeps its 3
    # against 5 / 2 of unit 0; at t=2 unit 0 has 7 / 2, which is more, and replaces it in the one place there is.
    score = torch.tensor([[[2.0, 4.0, 1.0], [5.0, 3.0, 1.0], [7.0, 3.0, 1.0]]])
    mask, cached, freq, last_used, t = dipc.select_cache_aware(score, *cold(3), 1, 1, 0.5)
    assert kept(mask) == [[1], [1], [0]]
    assert cached.tolist() == [True, False, False]
    assert freq.tolist() == [1, 2, 0] and last_used.tolist() == [2, 1, -1] and int(t) == 3


def test_cache_aware_with_gamma_one_is_topk() -> None:
    score = torch.rand(1, 50, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dipc.select_cache_aware(score, *cold(11), 4, 5, 1.0)[0], dipc.select_topk(score, 4))


def test_cache_aware_with_gamma_zero_keeps_to_the_cache() -> None:
    # A full cache of k units scores above everything else as long as its scores are positive.
    score = torch.rand(1, 20, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    mask = dipc.select_cache_aware(score, *cold(8), 3, 3, 0.0)[0]
    assert kept(mask) == [[0, 1, 2]] * 20


def test_cache_aware_leaves_dense_tokens_whole_and_the_cache_untouched() -> None:
    score = torch.tensor([[[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
    dense = torch.tensor([[True, False, True]])
    mask, *state = dipc.select_cache_aware(score, *cold(3), 1, 2, 0.5, "lfu", "", dense)
    assert kept(mask) == [[0, 1, 2], [0], [0, 1, 2]]
    assert [s.tolist() for s in state] == [[True, False, False], [1, 0, 0], [1 - 1, -1, -1], 1]


@pytest.mark.parametrize("policy", ["lfu", "lru", "none"])
@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_selection_over_512_tokens_is_the_same_bits_however_it_is_computed(policy: str, gamma: float) -> None:
    """One call, one token at a time, calls of odd length; the reference and whatever kernel there is."""
    generator = torch.Generator().manual_seed(1)
    # Few distinct values, so that ties are common, beside continuous ones.
    coarse = torch.randint(0, 6, (1, 256, 33), generator=generator).float()
    score = torch.cat([coarse, torch.randn(1, 256, 33, generator=generator).abs()], 1)
    dense = torch.rand(1, 512, generator=generator) < 0.05
    options: tuple[Any, ...] = (12, 15, gamma, policy, "site")
    whole = SELECT_CACHE_AWARE.reference(*(score, *cold(33), *options, dense))
    assert int(whole[4]) == 512 - int(dense.sum())
    for function in (dipc.select_cache_aware, SELECT_CACHE_AWARE.reference):
        for piece in (512, 100, 1):
            state: tuple[Any, ...] = cold(33)
            masks = []
            for part, skip in zip(score.split(piece, 1), dense.split(piece, 1), strict=True):
                mask, *after = function(*(part, *state, *options, skip))
                state = tuple(after)
                masks.append(mask)
            assert torch.equal(torch.cat(masks, 1), whole[0])
            assert all(torch.equal(a, b) for a, b in zip(state, whole[1:], strict=True))
    rows = [select_topk.reference(part, 12) for part in score.split(1, 1)]
    assert torch.equal(torch.cat(rows, 1), dipc.select_topk(score, 12))


@given(st.integers(1, 40), st.integers(0, 2**16), st.booleans(), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=80, deadline=None)
def test_selection_among_nan_and_infinity_is_the_reference_bit_for_bit(
    units: int, seed: int, some_dense: bool, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([float("nan"), float("inf"), 0.0, -0.0, 1e-45, 3.4e38, 1.0, 2.0])
    score = values[torch.randint(len(values), (1, 5, units), generator=generator)]
    dense = torch.rand(1, 5, generator=generator) < 0.4 if some_dense else None
    for k in {0, 1, units // 2, units}:
        assert torch.equal(dipc.select_topk(score, k, "", dense), select_topk.reference(score, k, "", dense))
        args = (score, *cold(units), k, units // 2, gamma, "lru", "", dense)
        for a, b in zip(dipc.select_cache_aware(*args), SELECT_CACHE_AWARE.reference(*args), strict=True):
            assert torch.equal(a, b)


# --- Products ---


def test_gather_linear_reads_the_kept_columns_only() -> None:
    # y = 2 [1, 3] + 5 [10, 30] with column 1 left out, which is NaN times zero no more than it is read.
    weight = torch.tensor([[1.0, 100.0, 10.0], [3.0, 100.0, 30.0]])
    x, mask = row(2.0, float("nan"), 5.0), torch.tensor([[[True, False, True]]])
    assert dipc.gather_linear(x, mask, weight).tolist() == [[[52.0, 156.0]]]
    assert dipc.gather_linear(x, mask, weight, torch.tensor([1.0, -1.0])).tolist() == [[[53.0, 155.0]]]


def test_row_linear_computes_the_kept_rows_and_gives_zero_elsewhere() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [float("nan"), 6.0]])
    mask = torch.tensor([[[False, True, False]]])
    assert dipc.row_linear(row(1.0, 10.0), mask, weight).tolist() == [[[0.0, 43.0, 0.0]]]
    # The bias of a row that is left out is left out too.
    assert dipc.row_linear(row(1.0, 10.0), mask, weight, torch.ones(3)).tolist() == [[[0.0, 44.0, 0.0]]]


@pytest.mark.smoke
def test_glu_is_equation_1_and_2() -> None:
    # gate = relu([3, -1]) = [3, 0], up = [2, 5], hidden = [6, 0], down = [[1, 9], [2, 9]]: y = [6, 12].
    gate, up = torch.tensor([[3.0], [-1.0]]), torch.tensor([[2.0], [5.0]])
    down = torch.tensor([[1.0, 9.0], [2.0, 9.0]])
    assert dipc.glu(row(1.0), gate, up, down, None, None, None, "relu").tolist() == [[[6.0, 12.0]]]
    biases = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0])
    # gate = relu([3, 1]), up = [3, 5], hidden = [9, 5]: y = [9 + 45 + 0.5, 18 + 45].
    assert dipc.glu(row(1.0), gate, up, down, *biases, "relu").tolist() == [[[54.5, 63.0]]]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("silu", silu), ("gelu", gelu), ("gelu_tanh", lambda v: gelu(v, approximate="tanh")), ("relu", torch.relu)],
)
def test_glu_activations_are_the_ones_named(activation: str, expected: Any) -> None:
    x, one = torch.linspace(-3, 3, 7).reshape(1, 7, 1), torch.ones(1, 1)
    got = dipc.glu(x, one, one, one, None, None, None, activation)
    torch.testing.assert_close(got, expected(x) * x)


# --- Traffic rules ---


def test_traffic_of_each_operator() -> None:
    graph = fx.Graph()
    x, mask = graph.placeholder("x"), graph.placeholder("mask")
    gate, up, down, bias = (graph.get_attr(n) for n in ("gate", "up", "down", "bias"))
    calls: dict[str, tuple[Any, ...]] = {
        "glu": (x, gate, up, down),
        "gather_linear": (x, mask, up, bias),
        "row_linear": (x, mask, up),
        "select_topk": (x, 1),
    }
    reads = {}
    for name, args in calls.items():
        operator = operators.OPERATORS.get(name.replace("_", "-"))
        reads[name] = operator.traffic(graph.call_function(operator.target, args))
    assert reads == {
        "glu": (Read("gate", "all"), Read("up", "all"), Read("down", "all")),
        "gather_linear": (Read("up", "columns", mask),),
        "row_linear": (Read("up", "rows", mask),),
        "select_topk": (),
    }


def test_traffic_finds_its_arguments_by_keyword() -> None:
    graph = fx.Graph()
    x, mask, weight = graph.placeholder("x"), graph.placeholder("mask"), graph.get_attr("w")
    node = graph.call_function(dipc.gather_linear.default, (x,), {"weight": weight, "mask": mask})
    assert operators.OPERATORS.get("gather-linear").traffic(node) == (Read("w", "columns", mask),)


def test_traffic_of_a_weight_that_the_graph_computes_is_an_error() -> None:
    graph = fx.Graph()
    x, mask, computed = (graph.placeholder(n) for n in ("x", "mask", "computed"))
    node = graph.call_function(dipc.gather_linear.default, (x, mask, computed))
    with pytest.raises(ValueError, match="computed by the graph"):
        operators.OPERATORS.get("gather-linear").traffic(node)


# --- Shape rules and errors ---


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def mask_meta(*shape: int) -> Tensor:
    return meta(*shape, dtype=torch.bool)


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        ("select_topk", (meta(1, 2, 3), 4)),
        ("select_topk", (meta(1, 2, 3), -1)),
        ("select_cache_aware", (meta(1, 2, 3), *cold(3), 4, 2, 0.5)),
        ("select_cache_aware", (meta(1, 2, 3), *cold(3), 2, 4, 0.5)),
        ("select_cache_aware", (meta(1, 2, 3), *cold(4), 2, 2, 0.5)),
        ("gather_linear", (meta(1, 2, 3), mask_meta(1, 2, 3), meta(5, 4))),
        ("gather_linear", (meta(1, 2, 3), mask_meta(1, 2, 4), meta(5, 3))),
        ("row_linear", (meta(1, 2, 3), mask_meta(1, 2, 3), meta(5, 3))),
        ("row_linear", (meta(1, 2, 3), mask_meta(1, 2, 5), meta(5, 4))),
        ("glu", (meta(1, 2, 3), meta(5, 3), meta(4, 3), meta(3, 5))),
        ("glu", (meta(1, 2, 3), meta(5, 3), meta(5, 3), meta(3, 4))),
    ],
)
def test_shape_rule_refuses_what_does_not_fit(operator: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit|units"):
        operators.OPERATORS.get(operator.replace("_", "-")).fake(*args)


def test_an_unknown_operator_gets_a_guess() -> None:
    with pytest.raises(UnknownName, match="no operator named 'gather-linaer'; did you mean 'gather-linear'"):
        operators.target("gather_linaer")


def test_operator_of_knows_its_own_only() -> None:
    assert operators.operator_of(torch.ops.aten.linear.default) is None
    assert operators.operator_of(len) is None
    for name in operators.OPERATORS.names():
        assert operators.operator_of(operators.target(name)) is operators.OPERATORS.get(name)
