"""The cache-aware selection in Triton: the bits of its torch reference, interpreted anywhere and on a GPU."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dipc.cache.policy import get_policy, policy_names
from dipc.cache.state import CacheState
from dipc.gpu import presence, selection
from dipc.ops.select_cache_aware import OPERATOR
from kit.triton_kernels import Case, compile_kernels, interpreted

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton, on Linux"
)

POLICIES = [name for name in policy_names() if get_policy(name).online and get_policy(name).key_weights is not None]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ODD = torch.tensor([0.0, -0.0, 1.0, -1.0, 3e-39, 1e-38, 6e-8, 2e-7, 3e38, torch.nan, -torch.nan, torch.inf, -torch.inf])


def scores(seed: int, *shape: int) -> Tensor:
    """Magnitudes, every other row of which has many ties."""
    drawn = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)).abs()
    drawn[:, 1::2] = (3 * drawn[:, 1::2]).round()
    return drawn


def used(seed: int, units: int, most: int) -> CacheState:
    """A cache in the middle of its work, with counts and times below a bound."""
    generator = torch.Generator().manual_seed(seed)
    freq, last_used = torch.randint(most, (2, units), generator=generator).unbind()
    return CacheState(torch.rand(units, generator=generator) < 0.4, freq, last_used - 1, torch.tensor(most))


def case(
    score: Tensor, state: CacheState, k: int, capacity: int, gamma: float, policy: str, dense: Tensor | None = None
) -> Case:
    return score, *state.tensors, k, capacity, gamma, policy, "here", dense


@cache
def cases() -> dict[str, Case]:
    """Every policy, type, bound and odd value that the kernel has to agree on: little of each, as it is interpreted."""
    found = {}
    for seed, policy in enumerate(POLICIES):
        drawn = scores(seed, 2, 37).to(DTYPES[seed % 3])
        found[policy] = case(drawn, used(seed, 37, 3), 18, 12, 0.3, policy)
    # A cache that is full of hits, one that has room for new units, one that has room for all; counts of any size.
    for k, capacity in [(20, 2), (9, 14), (5, 31)]:
        for policy in ("lfu", "lfu-in-cache", "lfu-admission"):
            drawn, state = scores(k, 1, 33), used(k, 33, 2**24)
            found[f"{policy}, {k} of 33, {capacity} fit"] = case(drawn, state, k, capacity, 0.5, policy)
    for dtype in DTYPES:
        odd = ODD[torch.randint(len(ODD), (1, 2, 40), generator=torch.Generator().manual_seed(7))].to(dtype)
        for gamma in (0.0, 0.7, -0.5) if dtype is torch.float32 else (0.7,):
            found[f"odd {dtype} {gamma}"] = case(odd, used(1, 40, 5), 25, 15, gamma, "lfu")
    for units in (1, 2, 100):
        for k, capacity in {(0, units), (units, 0), (units, units), (units // 2, 1), (1, units // 2)}:
            cold = case(scores(units, 1, units), CacheState.empty(units), k, capacity, 0.2, "lfu")
            found[f"{k} of {units}, {capacity} fit"] = cold
    dense = torch.tensor([[False, True, False]])
    found["dense"] = case(scores(2, 3, 16), used(2, 16, 4), 8, 6, 0.2, "lfu", dense)
    found["static before its first token"] = case(
        scores(3, 2, 21), CacheState(*used(4, 21, 9).tensors[:3], torch.tensor(0)), 8, 6, 0.2, "static"
    )
    found["rows that do not lie together"] = case(scores(5, 2, 60)[..., ::2], used(5, 30, 9), 8, 6, 0.2, "lfu")
    return found


@cache
def by_token() -> list[Case]:
    """One text, token by token, each from the state that the reference left."""
    score, state = scores(11, 4, 24), CacheState.empty(24)
    steps = []
    for token in range(score.shape[1]):
        steps.append(case(score[:, token : token + 1], state, 10, 9, 0.4, "lfu"))
        state = CacheState(*OPERATOR.reference(*steps[-1])[1:])
    return steps


def whole() -> Case:
    """The same text in one call."""
    (_, *first), score = by_token()[0], torch.cat([step[0] for step in by_token()], 1)
    return score, *first


def assert_same(got: Case, arguments: Case) -> None:
    expected = OPERATOR.reference(*arguments)
    for name, mine, other in zip(("mask", "cached", "freq", "last_used", "t"), got, expected, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape, name
        assert torch.equal(mine.cpu(), other), f"{name}: {mine.tolist()} and not {other.tolist()}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """What the interpreter makes of all cases, in one process."""
    asked = {**cases(), "whole": whole()} | {f"token {i}": step for i, step in enumerate(by_token())}
    return dict(zip(asked, interpreted(list(asked.values()), tmp_path_factory.mktemp("interpreted")), strict=True))


@needs_triton
@pytest.mark.parametrize("name", cases())
def test_interpreted_it_has_the_bits_of_the_reference(name: str, results: dict[str, Case]) -> None:
    assert_same(results[name], cases()[name])


@needs_triton
def test_interpreted_many_calls_are_one(results: dict[str, Case]) -> None:
    steps = [results[f"token {i}"] for i in range(len(by_token()))]
    assert torch.equal(torch.cat([mask for mask, *_ in steps], 1), results["whole"][0])
    assert all(torch.equal(a, b) for a, b in zip(steps[-1][1:], results["whole"][1:], strict=True))
    assert_same(results["whole"], whole())


@needs_triton
@pytest.mark.nightly
def test_interpreted_on_cases_drawn_by_chance(tmp_path: Path) -> None:
    drawn = [by_chance(seed) for seed in range(400)]
    for got, arguments in zip(interpreted(drawn, tmp_path), drawn, strict=True):
        assert_same(got, arguments)


def by_chance(seed: int) -> Case:
    """Anything that the operator takes."""
    generator = torch.Generator().manual_seed(seed)

    def below(end: int) -> int:
        return int(torch.randint(end, (), generator=generator))

    units, tokens = 1 + below(140), 1 + below(6)
    score = ODD[torch.randint(len(ODD), (1, tokens, units), generator=generator)] if below(3) == 0 else None
    score = scores(seed, tokens, units) if score is None else score
    state = used(seed, units, (3, 2**24)[below(2)]) if below(2) else CacheState.empty(units)
    dense = torch.rand(1, tokens, generator=generator) < 0.3 if below(3) == 0 else None
    bounds = below(units + 1), below(units + 1)
    gamma, policy = (0.0, 0.2, 0.5, 1.0)[below(4)], POLICIES[below(len(POLICIES))]
    return case(score.to(DTYPES[below(3)]), state, *bounds, gamma, policy, dense)


@needs_triton
def test_it_compiles_for_a_gpu_without_one(tmp_path: Path) -> None:
    assert [line.split()[0] for line in compile_kernels(tmp_path).splitlines()] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_on_the_cpu_go_elsewhere(dtype: torch.dtype) -> None:
    assert not selection.covers_scores(torch.ones(1, 2, dtype=dtype))


def test_why_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    presence._tried.cache_clear()
    try:
        with monkeypatch.context() as without:
            without.setattr(importlib.util, "find_spec", lambda name: None)
            assert presence.kernels() is None and "Triton is not installed" in presence.describe()
    finally:
        presence._tried.cache_clear()


def on_gpu(arguments: Case) -> Case:
    """What the operator returns for a case whose tensors are on the GPU."""
    assert OPERATOR.kernel is not None
    made: Case = OPERATOR.kernel(*(a.cuda() if isinstance(a, Tensor) else a for a in arguments))
    return made


@pytest.mark.cuda
def test_the_kernels_run_on_this_gpu() -> None:
    assert presence.kernels() is not None, presence.describe()
    assert all(selection.covers_scores(torch.ones(1, 8, dtype=dtype, device="cuda")) for dtype in DTYPES)


@pytest.mark.cuda
@pytest.mark.parametrize("name", cases())
def test_on_a_gpu_it_has_the_bits_of_the_reference(name: str) -> None:
    assert_same(on_gpu(cases()[name]), cases()[name])


@pytest.mark.cuda
def test_on_a_gpu_many_calls_are_one() -> None:
    for arguments in (*by_token(), whole()):
        assert_same(on_gpu(arguments), arguments)


SITES = [(4096, policy, torch.float32) for policy in POLICIES]
SITES += [(units, "lfu", dtype) for units in (576, 1536, 14336) for dtype in DTYPES]


@pytest.mark.cuda
@pytest.mark.parametrize(("units", "policy", "dtype"), SITES)
def test_on_a_gpu_sites_of_real_models(units: int, policy: str, dtype: torch.dtype) -> None:
    arguments = case(scores(units, 40, units).to(dtype), used(1, units, 50), units // 2, units // 3, 0.3, policy)
    assert_same(on_gpu(arguments), arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("units", [selection.MOST_UNITS, selection.MOST_UNITS + 1])
def test_on_a_gpu_the_largest_site_and_one_that_falls_back(units: int) -> None:
    assert selection.covers_scores(torch.ones(1, units, device="cuda")) == (units == selection.MOST_UNITS)
    arguments = case(scores(2, 3, units), CacheState.empty(units), units // 2, units // 3, 0.3, "lfu")
    assert_same(on_gpu(arguments), arguments)


@pytest.mark.cuda
def test_on_a_gpu_no_argument_is_changed() -> None:
    arguments = tuple(a.cuda() if isinstance(a, Tensor) else a for a in cases()["dense"])
    before = [a.clone() for a in arguments if isinstance(a, Tensor)]
    on_gpu(arguments)
    assert all(torch.equal(a, b) for a, b in zip([a for a in arguments if isinstance(a, Tensor)], before, strict=True))
