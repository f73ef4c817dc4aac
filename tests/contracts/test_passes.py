"""The contract of every pass and every method, whoever wrote it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import pytest
import torch

from dipc.backends.eager import EagerSession
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.ir.selections import selections
from dipc.ir.verify import verify_structure
from dipc.memory.lowering import active_units, lower, program_density
from dipc.pipeline.numeric_check import deviation
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import make_pass, parse_pipeline
from kit.handmade_calibration import tiny_calibration
from kit.registered import file_name, summary
from kit.runs import agreement, relative, run_pieces
from kit.tiny_models import outlined, random_ids, tiny_llama

# Sums of at most a few dozen float32 products, in another order.
ROUNDING = 1e-5
METHODS = [name for name in PASSES.names() if issubclass(PASSES.get(name), SparsityPass)]


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


@pytest.mark.smoke
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
