"""What every operator, method, policy and device must keep, whoever wrote it: the tests run over the registries."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import tiny_calibration
from helpers import agreement, outlined, random_ids, relative, run_pieces, tiny_llama
from torch import Tensor, fx

from dipc.backends.eager import EagerSession
from dipc.cache import get_policy, policy_names
from dipc.cache.policy import POLICIES
from dipc.errors import UsageError
from dipc.hardware.find import device_names, load_device
from dipc.ir.operators import OPERATORS, Operator, operator_of
from dipc.ir.program import Program
from dipc.ir.verify import verify_structure
from dipc.memory.lowering import active_units, lower, program_density, selections
from dipc.pipeline.numeric_check import deviation
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import make_pass, parse_pipeline
from dipc.registry import registry_name

OPERATOR_NAMES = OPERATORS.names()
METHODS = [name for name in PASSES.names() if issubclass(PASSES.get(name), SparsityPass)]
SHAPES = list(itertools.product((1, 7), (1, 5, 33)))

# Sums of at most a few dozen float32 products, in another order.
ROUNDING = 1e-5


def file_name(thing: Any) -> str:
    """The registry name that the file in which a thing is defined asks for."""
    return registry_name(Path(inspect.getfile(thing)).stem)


def summary(thing: Any) -> str:
    """The first line of a docstring that the thing has of its own."""
    return inspect.cleandoc(vars(thing).get("__doc__") or "").partition("\n")[0]


# --- Operators ---


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


# --- Passes ---


def candidates(kind: Any, default: Any) -> list[Any]:
    """Values of an option's type that a method may take and that are not its default."""
    options = [a for k in (typing.get_args(kind) or [kind]) for a in (typing.get_args(k) or [k])]
    values: list[Any] = []
    for option in options:
        if option is float:
            values += [0.25, 0.75]
        elif option is int:
            values += [3]
        elif option is bool:
            values += [True, False]
        elif option is str:
            values += ["lru", "a18", "0-1,-1", "4 GB", "some words"]
        elif option is not type(None):
            values.append(option)
    return [v for v in values if v != default]


def set_every_option(name: str) -> Pass:
    """A pass with as many options off their defaults as it takes together."""
    kind = PASSES.get(name)
    types, item = typing.get_type_hints(kind), kind()
    for option in dataclasses.fields(kind):
        for value in candidates(types[option.name], option.default):
            try:
                item = dataclasses.replace(item, **{option.name: value})
            except UsageError:
                continue
            break
    return item


@pytest.mark.parametrize("name", PASSES.names())
def test_pass_is_documented_and_named_after_its_file(name: str) -> None:
    kind = PASSES.get(name)
    assert file_name(kind) == name and summary(kind).endswith(".")
    assert vars(kind)["__dataclass_params__"].frozen
    written = "\n".join(inspect.cleandoc(vars(base).get("__doc__") or "") for base in kind.__mro__)
    for option in dataclasses.fields(kind):
        assert f"{option.name}: " in written, f"{name} does not say what {option.name} means"


@pytest.mark.parametrize("name", PASSES.names())
def test_pass_prints_and_parses_back(name: str) -> None:
    plain, full = PASSES.get(name)(), set_every_option(name)
    assert str(plain) == name
    for item in (plain, full, plain.exact()):
        assert parse_pipeline(str(item)) == [item]
        assert parse_pipeline(f"outline-glu, {item}")[1] == item
    assert (full != plain) == bool(dataclasses.fields(plain))


def method(name: str, **options: Any) -> Pass:
    """A method, with a calibration of the tiny Llama where it takes one."""
    takes = any(f.name == "calibration" for f in dataclasses.fields(PASSES.get(name)))
    return make_pass(name, {"calibration": tiny_calibration(), **options} if takes else options)


def apply(name: str, **options: Any) -> Program:
    """The tiny Llama rewritten by a method."""
    return method(name, **options).run(outlined()).program


@pytest.mark.parametrize("name", METHODS)
def test_method_keeping_everything_is_the_dense_model(name: str) -> None:
    item = method(name).exact()
    program = item.run(outlined()).program
    assert deviation(tiny_llama(), program) <= item.tolerance
    assert program_density(program) == pytest.approx(1)


@pytest.mark.parametrize("name", METHODS)
def test_method_keeps_the_density_asked_for(name: str) -> None:
    """Each site rounds to whole units, so the whole is off by at most half a unit of the smallest site."""
    taken = 0
    for density in (0.3, 0.5, 0.7, 0.9):
        try:
            program = apply(name, density=density)
        except UsageError:
            continue  # Oracles that read some matrix in full cannot go so low, and say so.
        taken += 1
        if set(active_units(program)) == set(selections(program)):
            smallest = min(s.units for s in lower(program).sites)
            assert abs(program_density(program) - density) <= 0.5 / smallest + 1e-9
            assert program.method.density == program_density(program)
    assert taken


@pytest.mark.parametrize("name", METHODS)
def test_method_rewrites_the_layers_asked_for(name: str) -> None:
    result = method(name, layers="1").run(outlined())
    assert result.matches == ("model.layers.1.mlp",)
    assert [(m.where, m.reason) for m in result.mismatches] == [("model.layers.0.mlp", "layer 0 is not among layers=1")]
    assert {s.layer for s in lower(result.program).sites if not s.full} == {1}
    assert result.program.nodes_of(torch.ops.dipc.glu.default)


@pytest.mark.parametrize("name", METHODS)
def test_method_leaves_a_prompt_dense_if_its_scope_is_decode(name: str) -> None:
    program, ids = apply(name, scope="decode"), random_ids(16)
    sparse, dense = EagerSession(program, record=True), EagerSession(tiny_llama())
    prompt = sparse.step(ids[:12], dense=True)
    assert relative(prompt.logits, dense.step(ids[:12]).logits) <= ROUNDING
    assert all(mask.all() for mask in prompt.masks.values())
    after = sparse.step(ids[12:])
    assert not any(mask.all() for mask in after.masks.values())
    assert relative(after.logits, dense.step(ids[12:]).logits) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_method_is_the_same_in_one_call_and_token_by_token(name: str) -> None:
    program, ids = apply(name), random_ids(24)
    logits, masks, _ = run_pieces(program, ids, 24)
    for piece in (1, 7):
        got, seen, _ = run_pieces(program, ids, piece)
        assert agreement(seen, masks) >= 0.999
        assert relative(got, logits) <= ROUNDING


@pytest.mark.parametrize("name", METHODS)
def test_method_has_the_dense_model_behind_it(name: str) -> None:
    for scope in ("all", "decode"):
        dense = apply(name, scope=scope).reference
        verify_structure(dense)
        assert deviation(tiny_llama(), dense) <= ROUNDING
        assert dense.inputs == tiny_llama().inputs and dense.outputs == tiny_llama().outputs


@pytest.mark.parametrize("name", METHODS)
def test_method_verifies_and_lowers_to_traffic(name: str) -> None:
    program = apply(name)
    verify_structure(program)
    traffic, whole = lower(program), lower(outlined())
    names = [s.name for s in traffic.sites]
    assert len(set(names)) == len(names) and set(selections(program)) <= set(names)
    assert sum(s.size_bytes for s in traffic.sites) >= sum(s.size_bytes for s in whole.sites)
    assert traffic.resident_bytes >= whole.resident_bytes
    masks = run_pieces(program, random_ids(5), 5)[1]
    for site in traffic.sites:
        if not site.full:
            assert masks[site.name].shape == (5, site.units)


@pytest.mark.parametrize("name", METHODS)
def test_method_is_a_function_of_its_input(name: str) -> None:
    before = outlined().text()
    first, second = apply(name).text(), apply(name).text()
    assert first == second
    assert outlined().text() == before and name in first.partition("\n")[0]


# --- Policies and devices ---


@pytest.mark.parametrize("name", policy_names())
def test_policy_is_documented_and_named_after_its_file(name: str) -> None:
    kind = POLICIES.get(name)
    assert summary(kind).endswith(".")
    assert file_name(kind) == name == get_policy(name).name


@pytest.mark.parametrize("name", policy_names())
def test_policy_key_is_an_integer_in_range_and_the_same_each_time(name: str) -> None:
    """Over counts and times that a run can reach, in torch and in numpy (whole sites and subsets: test_cache)."""
    generator = torch.Generator().manual_seed(0)
    last_used = torch.randint(-1, 2**24, (1000,), generator=generator)
    freq = (torch.rand(1000, generator=generator) * (last_used + 1)).long()
    policy = get_policy(name)
    key = policy.key(freq, last_used)
    assert key.dtype == torch.int64 and bool((key >= 0).all()) and bool((key < 2**50).all())
    assert torch.equal(key, policy.key(freq, last_used))
    assert (policy.key(freq.numpy(), last_used.numpy()) == key.numpy()).all()


@pytest.mark.parametrize("name", device_names())
def test_device_loads(name: str) -> None:
    device = load_device(name)
    assert device.name and device.dram_available > 0
